// libFuzzer on ModelInfer's parser: whatever is accepted must fit the graph, and lie within the message.
#include <cstdlib>

#include "../wire.h"
#include "served.h"

using namespace lectern;

static void check(bool holds) {
  if (!holds) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const GraphConfig one = echo_config();
  static const GraphConfig two = [] {
    GraphConfig config = echo_config();
    TensorSpec fixed{"z", "INT64", 8, {2, -1}, 7};
    config.inputs.push_back(fixed);
    config.outputs.push_back(fixed);
    return config;
  }();
  static const std::vector<SharedAxis> shared{{{0, 1}, {1, 2}}};
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  timeout_of(bytes);
  is_grpc(bytes);
  auto request = parse_infer(bytes);
  if (!request) return 0;
  for (const auto* config : {&one, &two}) {
    auto tensors = tensors_of(*request, *config, config == &two ? shared : std::vector<SharedAxis>{}, 1024);
    auto wanted = outputs_of(*request, *config);
    if (wanted) check(wanted->size() <= config->outputs.size());
    if (!tensors) continue;
    check(tensors->size() == config->inputs.size());
    for (size_t i = 0; i < tensors->size(); i++) {
      const auto& tensor = (*tensors)[i];
      check(tensor.data >= bytes.data() && tensor.data + tensor.bytes(config->inputs[i]) <= bytes.data() + bytes.size());
      check(tensor.shape[0] == (*tensors)[0].shape[0] && tensor.shape[0] > 0);
    }
  }
  return 0;
}
