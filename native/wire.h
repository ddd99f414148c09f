// gRPC's framing and the few protobuf messages that the front reads and writes itself.
// Specifications: github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, protobuf.dev/programming-guides/encoding.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http.h"
#include "queue.h"

namespace lectern {

constexpr size_t kPrefixBytes = 5;  // compressed flag and length, before each message

// Seconds of a `grpc-timeout` header; infinity without a valid one.
double timeout_of(std::string_view header);

bool is_grpc(std::string_view content_type);

std::string prefixed(std::string_view message);

// Trailers of a status. `details` is a serialised google.rpc.Status, or empty.
Headers status_trailers(int code, std::string_view message, std::string_view details, std::string_view request_id);

// The google.rpc.Status of a failure, with RetryInfo if it says when to retry.
std::string status_details(const Failure& failure);

// A ModelInferRequest that is in the common form: raw contents, no parameters. Views into the message.
struct InferRequest {
  struct Input {
    std::string_view name, datatype, raw;
    Shape shape;
  };
  std::string_view model, version, id;
  std::vector<Input> inputs;
  std::vector<std::string_view> outputs;
};

constexpr size_t kMostTensors = 64;
constexpr size_t kMostAxes = 17;

// Nothing if the message has another form or is malformed: Python serves it, or says what is wrong.
std::optional<InferRequest> parse_infer(std::string_view message);

// Inputs that must have the same length in one axis: (position of the input, axis) of each.
using SharedAxis = std::vector<std::pair<size_t, size_t>>;

// The tensors in the order of the config, if they fit the graph; views into the message.
std::optional<std::vector<Tensor>> tensors_of(const InferRequest& request, const GraphConfig& config,
                                              const std::vector<SharedAxis>& shared, int64_t axis_length);

// Positions of the outputs that the request asks for; all if it names none, nothing if it names one that is not there.
std::optional<std::vector<size_t>> outputs_of(const InferRequest& request, const GraphConfig& config);

// A ModelInferResponse with gRPC's prefix.
std::string infer_response(const GraphConfig& config, std::string_view id, const std::vector<size_t>& wanted,
                           const std::vector<Buffer>& outputs);

}  // namespace lectern
