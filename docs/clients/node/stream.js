// Writes a poem as it grows: `node stream.js HOST:PORT BEGINNING`.
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { GenerateService } from "./gen/lectern/v1/generate_pb.js";

const [target, prompt] = process.argv.slice(2);
const client = createClient(GenerateService, createGrpcTransport({ baseUrl: `http://${target}` }));
for await (const response of client.generateText({ prompt, seed: 7n })) {
  process.stdout.write(response.text);
}
console.log();
