// Comma-separated tables as rows of numbers, as the command line reads them.

import { InputError } from "./media.js";
import { t } from "./words.js";

const EMPTY = new Set(["", "?", "-", "na", "n/a", "nan", "null", "none", "#n/a"]);
const MOST_CATEGORIES = 20;
const MOST_ROWS = 4096; // of one request

// The cells of each row that is not empty; quotes, and commas, semicolons or tabs.
export function cellsOf(text) {
  const head = text.slice(0, text.search(/\r?\n|$/));
  const delimiter = [",", ";", "\t"].reduce((best, one) => (head.split(one).length > head.split(best).length ? one : best));
  const rows = [[]];
  let cell = "";
  let quoted = false;
  const put = () => {
    rows.at(-1).push(cell.trim());
    cell = "";
  };
  const clean = text.replace(/^\uFEFF/, "");
  for (let i = 0; i < clean.length; i++) {
    const letter = clean[i];
    if (quoted && letter === '"' && clean[i + 1] === '"') cell += clean[++i];
    else if (letter === '"' && (quoted || cell.trim() === "")) quoted = !quoted;
    else if (!quoted && letter === delimiter) put();
    else if (!quoted && letter === "\n") {
      put();
      rows.push([]);
    } else cell += letter;
  }
  put();
  return rows.filter((row) => row.some((one) => one !== ""));
}

// Models read numbers of 32 bits.
const numberIn = (cell) => (cell !== "" && Number.isFinite(Math.fround(Number(cell))) ? Number(cell) : null);

// Rows of the named features; a header chooses columns by name, repeated names are numbered. Errors count rows as the
// page and the server's errors do: from 1, without the header.
export function featureRows(text, features) {
  const rows = cellsOf(text);
  if (!rows.length) throw new InputError(t("csv.empty"));
  let places = features.map((_, i) => i);
  let table = rows;
  if (rows[0].some((cell) => numberIn(cell) === null)) {
    const named = new Map(numbered(rows[0]).map((name, i) => [name, i]));
    const lacking = features.filter((name) => !named.has(name));
    if (lacking.length) throw new InputError(t("csv.lacks", { n: lacking.length, all: features.length, names: lacking.slice(0, 4).join(", ") }));
    places = features.map((name) => named.get(name));
    table = rows.slice(1);
  }
  if (!table.length) throw new InputError(t("csv.empty"));
  if (table.length > MOST_ROWS) throw new InputError(t("csv.many", { n: table.length, most: MOST_ROWS }));
  return table.map((row, r) =>
    places.map((place, i) => {
      const value = numberIn(row[place] ?? "");
      if (value === null) throw new InputError(t("csv.cell", { row: r + 1, column: features[i], cell: row[place] ?? "" }));
      return value;
    }),
  );
}

function numbered(names) {
  const seen = new Map();
  return names.map((name) => {
    const times = seen.get(name) ?? 0;
    seen.set(name, times + 1);
    return times ? `${name}.${times}` : name;
  });
}

// Examples with a class in the last column, and queries with the same columns, as PredictFromExamples takes them.
export function labelledTable(examplesText, queriesText) {
  const [header, ...rows] = cellsOf(examplesText);
  const [queryHeader, ...asked] = cellsOf(queriesText);
  if (!header || rows.length < 2) throw new InputError(t("tables.few"));
  if (!queryHeader || !asked.length) throw new InputError(t("tables.noQueries"));
  const names = header.slice(0, -1);
  const lacking = names.filter((name) => !queryHeader.includes(name));
  if (lacking.length) throw new InputError(t("csv.lacks", { n: lacking.length, all: names.length, names: lacking.join(", ") }));
  const columns = names.map((name, i) => columnOf(name, rows.map((row) => row[i] ?? "")));
  const examples = rows.map((row, r) => {
    const label = row[header.length - 1];
    if (!label) throw new InputError(t("tables.noClass", { row: r + 1 }));
    return { features: columns.map((column, i) => column(row[i] ?? "")), label };
  });
  const queries = asked.map((row) => ({ features: columns.map((column, i) => column(row[queryHeader.indexOf(names[i])] ?? "")) }));
  return { examples, queries, columns: names, label: header.at(-1), asked, queryHeader };
}

// How a cell of a column becomes a number; texts are counted from 0 in order, empty cells are "NaN".
function columnOf(name, cells) {
  const filled = cells.filter((cell) => !EMPTY.has(cell.toLowerCase()));
  if (filled.every((cell) => numberIn(cell) !== null)) {
    return (cell) => {
      if (EMPTY.has(cell.toLowerCase())) return "NaN";
      const value = numberIn(cell);
      if (value === null) throw new InputError(t("csv.notNumber", { column: name, cell }));
      return value;
    };
  }
  const categories = [...new Set(filled)].sort();
  if (categories.length > MOST_CATEGORIES) throw new InputError(t("tables.categories", { column: name }));
  return (cell) => (categories.includes(cell) ? categories.indexOf(cell) : "NaN");
}
