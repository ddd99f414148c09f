// A front with one graph, "echo", and what Python does for it in a server: a thread that runs batches, and one that
// answers events.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include "../front.h"

namespace lectern {

inline GraphConfig echo_config() {
  const float fill = 0;
  TensorSpec x{"x", "FP32", sizeof(float), {-1}, 0}, y = x;
  x.fill.assign(reinterpret_cast<const char*>(&fill), sizeof fill);
  y.name = "y";
  return {"echo", 1, true, 8, 0, {{200, kNever, false}}, 1, 1, {}, {x}, {y}};
}

// Listens on a path of the file system, or on an abstract one if it begins with '@'.
class Served {
 public:
  explicit Served(const std::string& path, size_t budget = 1 << 20)
      : address_(address_of(path)), queue_(std::make_shared<Queue>(echo_config())), front_(settings()) {
    int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&address_), sizeof address_) || ::listen(fd, 1024))
      throw std::runtime_error("cannot listen");
    front_.add_method({"/Infer", false, false});
    front_.add_method({"/Unary", false, false});
    front_.add_method({"/Many", false, true});
    front_.add_method({"/Both", true, true});
    front_.set_routes({{"echo", {{1, {queue_, {{{0, 1}}}}}}}});
    front_.set_budget(budget);
    front_.listen(fd);
    front_.start();
    runs_ = std::thread([this] { run(); });
    answers_ = std::thread([this] { answer(); });
  }

  ~Served() {
    front_.shut_down();
    stopping_ = true;
    answers_.join();
    front_.stop();
    queue_->close();
    runs_.join();
  }

  int connect() const {
    int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    timeval patience{5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address_), sizeof address_)) throw std::runtime_error("cannot connect");
    return fd;
  }

  Front& front() { return front_; }

 private:
  static sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
    if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
    return address;
  }

  static FrontSettings settings() {
    FrontSettings settings;
    settings.infer_path = "/Infer";
    settings.message_bytes = 1 << 20;
    settings.calls = 64;
    settings.seconds_bounds = {0.001, 0.1};
    settings.http.max_connection_age = 2;
    settings.http.max_connection_age_grace = 0.5;
    settings.http.held_bytes = 8 << 20;
    return settings;
  }

  void run() {
    while (auto batch = queue_->next()) {
      const auto inputs = batch->begin(monotonic_seconds());
      if (!inputs.empty()) batch->answer({{inputs[0].data.get(), inputs[0].shape}}, monotonic_seconds());
    }
  }

  void answer() {
    while (!stopping_) {
      pollfd waiting{front_.event_fd(), POLLIN, 0};
      if (::poll(&waiting, 1, 10) <= 0) continue;
      for (auto& event : front_.take_events()) answer(event);
    }
  }

  void answer(Event& event) {
    switch (event.kind) {
      case Event::Kind::start:
        if (event.method == 3) return front_.read(event.call);
        if (event.method != 2) return front_.answer(event.call, std::move(event.message));
        for (int i = 0; i < 3; i++) front_.write(event.call, event.message);
        return front_.finish(event.call, 0, "", "");
      case Event::Kind::message:
        front_.write(event.call, std::move(event.message));
        return front_.read(event.call);
      case Event::Kind::ended: return front_.finish(event.call, 0, "", "");
      case Event::Kind::broken: return front_.finish(event.call, int(event.code), event.problem, "");
      default: return;
    }
  }

  const sockaddr_un address_;
  std::shared_ptr<Queue> queue_;
  Front front_;
  std::atomic<bool> stopping_{false};
  std::thread runs_, answers_;
};

}  // namespace lectern
