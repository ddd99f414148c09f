// Callers of every kind at once, good ones, those who change their minds and those who send garbage: nothing races, no
// memory is misused, and at the end a good call is answered. Built with sanitizers: cmake -DSANITIZE=thread or
// address,undefined.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "frames.h"
#include "served.h"

using namespace lectern;

namespace {

std::string one_call(std::mt19937& random, uint32_t stream) {
  static const char* const paths[] = {"/Infer", "/Infer", "/Unary", "/Many", "/Both", "/Nothing"};
  std::string more;
  if (random() % 4 == 0) more += field("grpc-timeout", std::to_string(random() % 50) + "m");
  if (random() % 8 == 0) more += field("traceparent", "x");
  const uint32_t widths[] = {1, 16, 1000, 40'000};
  std::string content = message(infer_request(widths[random() % 4]));
  if (random() % 16 == 0) content += content;
  std::string frames = headers(stream, paths[random() % 6], more);
  switch (random() % 8) {
    case 0: return frames + frame(kReset, kNone, stream, number32(8));
    case 1: return frames + body(stream, content) + frame(kReset, kNone, stream, number32(8));
    case 2: return frames + frame(kData, kNone, stream, std::string_view(content).substr(0, random() % 64));
    case 3: return frames + frame(kData, kEndStream, stream, std::string_view(content).substr(0, random() % 64));
    default: return frames + body(stream, content);
  }
}

std::string script(std::mt19937& random) {
  std::string bytes(kPreface);
  const uint32_t windows[] = {0, 1000, 65'535, 0x7FFFFFFF};
  bytes += frame(kSettings, kNone, 0, std::string{0, 4} + number32(windows[random() % 4]));
  bytes += frame(kWindowUpdate, kNone, 0, number32(1 << 20));
  for (uint32_t i = 0; i < 1 + random() % 40; i++) bytes += one_call(random, 2 * i + 1);
  if (random() % 3 == 0) {
    for (int i = 0; i < 4; i++) bytes[random() % bytes.size()] = char(random());
  }
  return bytes;
}

// What comes back until the server hangs up, or for a while.
std::string exchange(int fd, std::string_view bytes, int milliseconds) {
  std::string answer;
  char buffer[1 << 14];
  double end = monotonic_seconds() + 1e-3 * milliseconds;
  while (monotonic_seconds() < end) {
    if (!bytes.empty()) {
      ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) bytes.remove_prefix(size_t(sent));
    }
    pollfd waiting{fd, POLLIN, 0};
    if (::poll(&waiting, 1, bytes.empty() ? 5 : 1) <= 0) continue;
    ssize_t count = ::recv(fd, buffer, sizeof buffer, 0);
    if (count <= 0) break;
    answer.append(buffer, size_t(count));
  }
  return answer;
}

bool serves(const Served& served) {
  int fd = served.connect();
  std::string call = std::string(kPreface) + frame(kSettings, kNone, 0, "") + headers(1, "/Infer") + body(1, message(infer_request(3)));
  std::string answer = exchange(fd, call, 1000);
  ::close(fd);

  return answer.find(std::string(12, '\1')) != std::string::npos;  // the numbers of the request
}

}  // namespace

// Argument: seconds.
int main(int count, char** arguments) {
  const double until = monotonic_seconds() + (count > 1 ? std::atof(arguments[1]) : 5);
  Served served("@lectern-front-stress-" + std::to_string(getpid()));
  std::atomic<uint64_t> scripts{0}, answered{0};
  std::vector<std::thread> callers;
  for (unsigned seed = 0; seed < 6; seed++) {
    callers.emplace_back([&, seed] {
      std::mt19937 random(seed);
      while (monotonic_seconds() < until) {
        int fd = served.connect();
        answered += !exchange(fd, script(random), int(random() % 60)).empty();
        ::close(fd);
        scripts++;
      }
    });
  }
  while (monotonic_seconds() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    served.front().take_counters();
    served.front().set_access({false, {100, 100, 50}, {}});
    served.front().quota()->admit("other", {100, 100, 50}, monotonic_seconds());
  }
  for (auto& caller : callers) caller.join();
  served.front().set_access({});
  const bool alive = serves(served);
  std::printf("%llu connections, %llu of them answered; serves: %d\n", static_cast<unsigned long long>(scripts),
              static_cast<unsigned long long>(answered), alive);
  return alive && answered ? 0 : 1;
}
