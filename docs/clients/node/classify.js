// Classifies pictures: `node classify.js HOST:PORT PICTURE...`; LECTERN_TOKEN is sent if it is set.
import { readFile } from "node:fs/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ClassifyService } from "./gen/lectern/v1/classify_pb.js";

const [target, ...files] = process.argv.slice(2);
const token = process.env.LECTERN_TOKEN;
// One transport for the whole program: its connection serves many calls at once.
const transport = createGrpcTransport({
  baseUrl: `http://${target}`, // https:// where the server has a certificate
  defaultTimeoutMs: 30_000, // the deadline, which the server learns too
  interceptors: token
    ? [(next) => (request) => (request.header.set("authorization", `Bearer ${token}`), next(request))]
    : [],
});
const client = createClient(ClassifyService, transport);

try {
  const images = await Promise.all(files.map((file) => readFile(file)));
  const response = await client.classifyImage({ images, topK: 1 });
  response.results.forEach((result, i) => {
    const [best] = result.classes;
    console.log(`${files[i]}  ${best.label}  ${best.probability.toFixed(2)}`);
  });
} catch (error) {
  const failure = ConnectError.from(error);
  console.error(`${Code[failure.code]}: ${failure.rawMessage}`, failure.metadata.get("x-request-id") ?? "");
  process.exit(1);
}
