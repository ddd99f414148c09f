// Every tab: which service and models answer it, and the file that draws it. `lecture` is shown before its title.

const part = (id, panel, service, ...models) => ({ id, panel, service, models });
const tab = (id, lecture, panel, service, ...models) => ({ id, lecture, parts: [part("", panel, service, ...models)] });

export const HOMEWORKS = [
  tab("hw1", "HW1", "survey", "PredictService", "covid_regressor"),
  tab("hw2", "HW2", "phones", "ClassifyService", "phoneme_classifier"),
  tab("hw3", "HW3", "photo", "ClassifyService", "image_classifier"),
  tab("hw4", "HW4", "voices", "ClassifyService", "speaker_classifier"),
  tab("hw5", "HW5", "translate", "TranslateService", "translator_en_zh"),
  {
    id: "hw6",
    lecture: "HW6",
    parts: [
      part("", "faces", "GenerateService", "face_generator"),
      part("garments", "garments", "GenerateService", "garment_generator"),
      part("styles", "restyle", "GenerateService", "style_translator"),
    ],
  },
  {
    id: "hw7",
    lecture: "HW7",
    parts: [
      part("", "reading", "AnswerService", "question_answerer"),
      part("sentiment", "opinion", "ClassifyService", "sentiment_classifier", "spam_classifier"),
      part("poem", "poem", "GenerateService", "poem_generator"),
    ],
  },
  tab("hw8", "HW8", "anomaly", "DetectAnomalyService", "anomaly_detector"),
  {
    id: "hw9",
    lecture: "HW9",
    parts: [
      part("", "explain", "ExplainService", "image_classifier"),
      part("text", "explainText", "ExplainService", "sentiment_classifier"),
      part("model", "explainModel", "ExplainService", "image_classifier"),
    ],
  },
  tab("hw10", "HW10", "defend", "DefendService", "image_classifier", "robust_classifier", "image_purifier", "proxy_ensemble"),
  tab("hw11", "HW11", "drawing", "ClassifyService", "drawing_classifier", "image_classifier"),
  tab("hw12", "HW12", "lander", "ActService", "lunar_lander"),
  tab("hw13", "HW13", "compact", "ClassifyService", "compact_classifier", "image_classifier"),
  tab("hw14", "HW14", "rotations", "ClassifyService", "lifelong_classifier"),
  tab("hw15", "HW15", "fewShot", "ClassifyService", "few_shot_classifier"),
];

export const MORE = [
  tab("tags", "", "tags", "TagService", "slot_tagger", "pos_tagger"),
  tab("words", "", "nearest", "EmbedService", "word_vectors"),
  tab("search", "", "searching", "EmbedService", "text_encoder"),
  tab("entailment", "", "entailment", "ClassifyService", "entailment_classifier"),
  tab("rewriting", "", "rewriting", "TranslateService", "style_rewriter"),
  tab("stories", "", "stories", "AnswerService", "memory_reader"),
  tab("tables", "", "tables", "PredictService", "table_learner"),
];

export const BEHIND = [
  { id: "models", lecture: "", parts: [part("", "models", "")] },
  { id: "server", lecture: "", parts: [part("", "server", "")] },
];

export const TABS = [...HOMEWORKS, ...MORE, ...BEHIND];

export const addressOf = (tab, one) => (one.id ? `#${tab.id}/${one.id}` : `#${tab.id}`);
