// Node's grpc-js through the edge, by TLS, with the descriptors that the edge has. Prints the answers as JSON.
// argv: address, the authority's PEM file, the descriptors, a PNG.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

async function main(target, authority, descriptors, image) {
  const api = grpc.loadPackageDefinition(
    loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), { longs: Number, enums: String, defaults: true }),
  ).lectern.v1;
  const credentials = grpc.credentials.createSsl(fs.readFileSync(authority));
  const classify = new api.ClassifyService(target, credentials);
  const act = new api.ActService(target, credentials);
  const deadline = () => ({ deadline: Date.now() + 60000 });
  const unary = (images) =>
    new Promise((resolve, reject) =>
      classify.ClassifyImage({ images, top_k: 1 }, deadline(), (error, answer) => (error ? reject(error) : resolve(answer))));
  const all = (stream) =>
    new Promise((resolve, reject) => {
      const messages = [];
      stream.on("data", (message) => messages.push(message));
      stream.on("error", reject);
      stream.on("end", () => resolve(messages));
    });
  const photo = fs.readFileSync(image);
  const answers = { label: (await unary([photo])).results[0].classes[0].label };
  answers.steps = (await all(act.RunEpisode({ seed: 5, max_steps: 3 }, deadline()))).length;
  const stream = classify.StreamClassifyImage(deadline());
  const streamed = all(stream);
  for (let i = 0; i < 3; i++) stream.write({ images: [photo], top_k: 1 });
  stream.end();
  answers.streamed = (await streamed).length;
  await unary([Buffer.from("no picture")]).catch((error) => {
    answers.error = grpc.status[error.code];
  });
  console.log(JSON.stringify(answers));
  classify.close();
  act.close();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
