// HTTP/2 by hand, for callers that do as no library would.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lectern {

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum FrameType { kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kWindowUpdate = 8 };
enum FrameFlags { kNone = 0, kEndStream = 1, kEndHeaders = 4 };

inline std::string number32(uint32_t value) {
  return {char(value >> 24), char(value >> 16), char(value >> 8), char(value)};
}

inline std::string frame(FrameType type, int flags, uint32_t stream, std::string_view payload) {
  return number32(uint32_t(payload.size())).substr(1) + char(type) + char(flags) + number32(stream) + std::string(payload);
}

inline std::string field(std::string_view name, std::string_view value) {
  return std::string(1, '\0') + char(name.size()) + std::string(name) + char(value.size()) + std::string(value);
}

inline std::string headers(uint32_t stream, std::string_view path, std::string_view more = "") {
  std::string block = field(":method", "POST") + field(":scheme", "http") + field(":authority", "x") + field(":path", path) +
                      field("content-type", "application/grpc") + std::string(more);
  return frame(kHeaders, kEndHeaders, stream, block);
}

inline std::string message(std::string_view bytes) {
  return std::string(1, '\0') + number32(uint32_t(bytes.size())) + std::string(bytes);
}

// A body in frames of 16 KiB.
inline std::string body(uint32_t stream, std::string_view bytes) {
  constexpr size_t most = 1 << 14;
  std::string frames;
  for (; bytes.size() > most; bytes.remove_prefix(most)) frames += frame(kData, kNone, stream, bytes.substr(0, most));
  return frames + frame(kData, kEndStream, stream, bytes);
}

// A ModelInferRequest for one row of "echo" with so many numbers.
inline std::string infer_request(uint32_t width) {
  auto text = [](int number, std::string_view bytes) {
    std::string size;
    for (size_t rest = bytes.size(); size.empty() || rest; rest >>= 7) size += char((rest & 0x7F) | (rest > 0x7F ? 0x80 : 0));
    return std::string(1, char(number << 3 | 2)) + size + std::string(bytes);
  };
  std::string shape{1};
  for (uint32_t rest = width; shape.size() == 1 || rest; rest >>= 7) shape += char((rest & 0x7F) | (rest > 0x7F ? 0x80 : 0));
  std::string input = text(1, "x") + text(2, "FP32") + text(3, shape);
  return text(1, "echo") + text(3, "id") + text(5, input) + text(7, std::string(4 * width, '\1'));
}

}  // namespace lectern
