// Node's grpc-js: finds the services by reflection, then calls them as dynamic clients do. Prints the answers as JSON.
// argv: address, a file of packed uint8 photos [N, 32, 32, 3], a PNG.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const { GrpcReflection } = require("grpc-js-reflection-client");

async function main(target, photosFile, imageFile) {
  const credentials = grpc.credentials.createInsecure();
  const reflection = new GrpcReflection(target, credentials, {}, "v1");
  const services = await reflection.listServices();
  const answers = { services, methods: {} };
  const call = async (service, method, request) => {
    const descriptor = await reflection.getDescriptorBySymbol(service);
    const root = descriptor.getPackageObject({ longs: Number, enums: String, defaults: true });
    const Service = service.split(".").reduce((found, part) => found[part], root);
    const client = new Service(target, credentials);
    try {
      return await new Promise((resolve, reject) =>
        client[method](request, { deadline: Date.now() + 30000 }, (error, response) =>
          error ? reject(error) : resolve(response)));
    } finally {
      client.close();
    }
  };
  for (const service of services) {
    answers.methods[service] = (await reflection.listMethods(service)).map((method) => method.name);
  }
  const photos = fs.readFileSync(photosFile);
  const tensor = { name: "images", datatype: "UINT8", shape: [photos.length / 3072, 32, 32, 3] };
  const inferred = await call("inference.GRPCInferenceService", "ModelInfer", {
    model_name: "image_classifier", inputs: [tensor], raw_input_contents: [photos],
  });
  const raw = inferred.raw_output_contents[0];
  answers.logits = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
  const classified = await call("lectern.v1.ClassifyService", "ClassifyImage", {
    images: [fs.readFileSync(imageFile)], top_k: 1,
  });
  answers.label = classified.results[0].classes[0].label;
  try {
    await call("lectern.v1.ClassifyService", "ClassifyImage", { images: [Buffer.from("no picture")] });
  } catch (error) {
    answers.error = { code: grpc.status[error.code], details: error.details };
  }
  console.log(JSON.stringify(answers));
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
