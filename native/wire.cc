#include "wire.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cmath>

namespace lectern {
namespace {

enum WireType { kVarint = 0, kBytes = 2 };

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Reads fields of a protobuf message; `ok` turns false at the first malformed one.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : at_(bytes.data()), end_(at_ + bytes.size()) {}
  bool more() const { return ok && at_ < end_; }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && at_ < end_; shift += 7) {
      auto byte = uint8_t(*at_++);
      value |= uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    ok = false;
    return 0;
  }

  std::string_view bytes() {
    uint64_t size = varint();
    if (!ok || size > uint64_t(end_ - at_)) {
      ok = false;
      return {};
    }
    std::string_view view(at_, size_t(size));
    at_ += size;
    return view;
  }

  // A string in ASCII, which is valid UTF-8 even where a later field replaces it; Python looks at all others.
  std::string_view text() {
    auto view = bytes();
    ok = ok && is_ascii(view);
    return view;
  }

  bool ok = true;

 private:
  const char* at_;
  const char* end_;
};

constexpr uint64_t tag(int field, WireType type) { return uint64_t(field) << 3 | type; }

void put_varint(std::string& out, uint64_t value) {
  for (; value > 0x7F; value >>= 7) out += char(value | 0x80);
  out += char(value);
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_varint(out, tag(field, kBytes));
  put_varint(out, bytes.size());
  out += bytes;
}

size_t varint_size(uint64_t value) {
  size_t size = 1;
  for (; value > 0x7F; value >>= 7) size++;
  return size;
}

bool parse_shape(std::string_view packed, Shape& shape) {
  Reader reader(packed);
  while (reader.more()) {
    if (shape.size() == kMostAxes) return false;
    shape.push_back(int64_t(reader.varint()));
  }
  return reader.ok;
}

bool parse_input(std::string_view bytes, InferRequest::Input& input) {
  Reader reader(bytes);
  while (reader.more()) {
    switch (reader.varint()) {
      case tag(1, kBytes): input.name = reader.text(); break;
      case tag(2, kBytes): input.datatype = reader.text(); break;
      case tag(3, kBytes):
        if (!parse_shape(reader.bytes(), input.shape)) return false;
        break;
      case tag(3, kVarint):
        if (input.shape.size() == kMostAxes) return false;
        input.shape.push_back(int64_t(reader.varint()));
        break;
      default: return false;
    }
  }
  return reader.ok;
}

bool parse_output(std::string_view bytes, std::string_view& name) {
  Reader reader(bytes);
  while (reader.more()) {
    if (reader.varint() != tag(1, kBytes)) return false;
    name = reader.text();
  }
  return reader.ok;
}

// Whether a tensor's shape and size are those that the graph takes, as services/codecs/tensors.py checks them.
bool fits(const InferRequest::Input& input, const TensorSpec& spec, bool batched, int64_t axis_length) {
  size_t extra = batched ? 1 : 0;
  if (input.datatype != spec.datatype || input.shape.size() != spec.shape.size() + extra) return false;
  uint64_t bytes = spec.item_bytes;
  for (size_t axis = 0; axis < input.shape.size(); axis++) {
    int64_t size = input.shape[axis], wanted = axis < extra ? -1 : spec.shape[axis - extra];
    if (size < 1 || (wanted >= 0 && size != wanted)) return false;
    if (wanted < 0 && axis >= extra && size > (spec.longest ? spec.longest : axis_length)) return false;
    if (uint64_t(size) > input.raw.size() / bytes) return false;  // so that the product cannot overflow
    bytes *= uint64_t(size);
  }
  return bytes == input.raw.size();
}

std::string base64(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                             reinterpret_cast<const unsigned char*>(bytes.data()), int(bytes.size()));
  text.resize(size_t(size));
  while (!text.empty() && text.back() == '=') text.pop_back();
  return text;
}

std::string percent_encoded(std::string_view text) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F && c != '%') {
      out += c;
    } else {
      out += {'%', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return out;
}

}  // namespace

double timeout_of(std::string_view header) {
  if (header.size() < 2 || header.size() > 9) return kNever;
  uint64_t count = 0;
  for (char c : header.substr(0, header.size() - 1)) {
    if (c < '0' || c > '9') return kNever;
    count = 10 * count + uint64_t(c - '0');
  }
  switch (header.back()) {
    case 'H': return 3600.0 * double(count);
    case 'M': return 60.0 * double(count);
    case 'S': return double(count);
    case 'm': return 1e-3 * double(count);
    case 'u': return 1e-6 * double(count);
    case 'n': return 1e-9 * double(count);
    default: return kNever;
  }
}

bool is_grpc(std::string_view type) {
  constexpr std::string_view name = "application/grpc";
  if (type.substr(0, name.size()) != name) return false;
  return type.size() == name.size() || type[name.size()] == '+' || type[name.size()] == ';';
}

std::string prefixed(std::string_view message) {
  std::string out;
  out.reserve(kPrefixBytes + message.size());
  out += '\0';
  for (int shift = 24; shift >= 0; shift -= 8) out += char(message.size() >> shift);
  out += message;
  return out;
}

Headers status_trailers(int code, std::string_view message, std::string_view details, std::string_view request_id) {
  Headers trailers{{"grpc-status", std::to_string(code)}};
  if (!message.empty()) trailers.emplace_back("grpc-message", percent_encoded(message));
  if (!details.empty()) trailers.emplace_back("grpc-status-details-bin", base64(details));
  trailers.emplace_back("x-request-id", request_id);
  return trailers;
}

std::string status_details(const Failure& failure) {
  if (!failure.status.empty()) return failure.status;
  std::string status;
  put_varint(status, tag(1, kVarint));
  put_varint(status, uint64_t(failure.code));
  put_bytes(status, 2, failure.message);
  if (failure.retry_after < 0) return status;
  auto nanoseconds = uint64_t(failure.retry_after * 1e9);
  std::string delay, info, any;
  if (uint64_t seconds = nanoseconds / 1'000'000'000) {
    put_varint(delay, tag(1, kVarint));
    put_varint(delay, seconds);
  }
  if (uint64_t rest = nanoseconds % 1'000'000'000) {
    put_varint(delay, tag(2, kVarint));
    put_varint(delay, rest);
  }
  put_bytes(info, 1, delay);
  put_bytes(any, 1, "type.googleapis.com/google.rpc.RetryInfo");
  put_bytes(any, 2, info);
  put_bytes(status, 3, any);
  return status;
}

std::optional<InferRequest> parse_infer(std::string_view message) {
  InferRequest request;
  std::vector<std::string_view> raw;
  Reader reader(message);
  while (reader.more()) {
    switch (reader.varint()) {
      case tag(1, kBytes): request.model = reader.text(); break;
      case tag(2, kBytes): request.version = reader.text(); break;
      case tag(3, kBytes): request.id = reader.text(); break;
      case tag(5, kBytes):
        if (request.inputs.size() == kMostTensors) return {};
        if (!parse_input(reader.bytes(), request.inputs.emplace_back())) return {};
        break;
      case tag(6, kBytes):
        if (request.outputs.size() == kMostTensors) return {};
        if (!parse_output(reader.bytes(), request.outputs.emplace_back())) return {};
        break;
      case tag(7, kBytes):
        if (raw.size() == kMostTensors) return {};
        raw.push_back(reader.bytes());
        break;
      default: return {};
    }
  }
  if (!reader.ok || raw.size() != request.inputs.size()) return {};
  for (size_t i = 0; i < raw.size(); i++) request.inputs[i].raw = raw[i];
  return request;
}

std::optional<std::vector<Tensor>> tensors_of(const InferRequest& request, const GraphConfig& config,
                                              const std::vector<SharedAxis>& shared, int64_t axis_length) {
  if (request.inputs.size() != config.inputs.size()) return {};
  std::vector<Tensor> tensors;
  tensors.reserve(config.inputs.size());
  for (const auto& spec : config.inputs) {
    auto named = [&spec](const auto& input) { return input.name == spec.name; };
    auto input = std::find_if(request.inputs.begin(), request.inputs.end(), named);
    if (input == request.inputs.end() || !fits(*input, spec, config.batched, axis_length)) return {};
    if (config.batched && !tensors.empty() && tensors.front().shape[0] != input->shape[0]) return {};
    tensors.push_back({input->raw.data(), input->shape});
  }
  for (const auto& places : shared) {
    auto size = [&tensors](const auto& place) { return tensors[place.first].shape[place.second]; };
    for (const auto& place : places) {
      if (size(place) != size(places.front())) return {};
    }
  }
  return tensors;
}

std::optional<std::vector<size_t>> outputs_of(const InferRequest& request, const GraphConfig& config) {
  std::vector<size_t> wanted;
  if (request.outputs.empty()) {
    for (size_t i = 0; i < config.outputs.size(); i++) wanted.push_back(i);
  }
  for (const auto& name : request.outputs) {
    auto named = [&name](const auto& spec) { return spec.name == name; };
    auto spec = std::find_if(config.outputs.begin(), config.outputs.end(), named);
    auto position = size_t(spec - config.outputs.begin());
    if (spec == config.outputs.end() || std::count(wanted.begin(), wanted.end(), position)) return {};
    wanted.push_back(position);
  }
  return wanted;
}

std::string infer_response(const GraphConfig& config, std::string_view id, const std::vector<size_t>& wanted,
                           const std::vector<Buffer>& outputs) {
  std::string head;
  put_bytes(head, 1, config.model);
  put_bytes(head, 2, std::to_string(config.version));
  if (!id.empty()) put_bytes(head, 3, id);
  size_t raw_bytes = 0;
  std::string shape, tensor;
  for (size_t i : wanted) {
    shape.clear();
    tensor.clear();
    for (int64_t size : outputs[i].shape) put_varint(shape, uint64_t(size));
    put_bytes(tensor, 1, config.outputs[i].name);
    put_bytes(tensor, 2, config.outputs[i].datatype);
    if (!shape.empty()) put_bytes(tensor, 3, shape);
    put_bytes(head, 5, tensor);
    raw_bytes += 1 + varint_size(outputs[i].bytes) + outputs[i].bytes;
  }
  size_t size = head.size() + raw_bytes;
  std::string out;
  out.reserve(kPrefixBytes + size);
  out += '\0';
  for (int shift = 24; shift >= 0; shift -= 8) out += char(size >> shift);
  out += head;
  for (size_t i : wanted) put_bytes(out, 6, {outputs[i].data.get(), outputs[i].bytes});
  return out;
}

}  // namespace lectern
