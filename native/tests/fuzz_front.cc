// libFuzzer on a whole front: the input is what a caller sends after the preface of HTTP/2.
#include "frames.h"
#include "served.h"

using namespace lectern;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* served = new Served("@lectern-fuzz-front-" + std::to_string(getpid()));
  int fd = served->connect();
  std::string bytes(kPreface);
  bytes.append(reinterpret_cast<const char*>(data), size);
  ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ::shutdown(fd, SHUT_WR);
  char buffer[1 << 14];
  while (::recv(fd, buffer, sizeof buffer, 0) > 0) {
  }
  ::close(fd);
  return 0;
}
