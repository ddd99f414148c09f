#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <system_error>

#include "clock.h"
#include "http.h"

namespace lectern {
namespace {

constexpr double kAcceptPause = 0.1;   // after the process ran out of file descriptors
constexpr double kSecond = 1.0;
constexpr int kEvents = 256;
// A handshake takes up to a millisecond of this thread, on which everybody waits.
constexpr int kHandshakesPerTurn = 4;
// Connections of which no frame has come: beyond so many, those that were silent for so long make way.
constexpr size_t kStrangers = 1024;
constexpr double kSilence = 2.0;
constexpr int kRemovedStrangers = 16;  // at once, where descriptors are short

void check(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}

std::string name_of(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    return "ipv6:[" + std::string(text) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
  inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
  return "ipv4:" + std::string(text) + ":" + std::to_string(ntohs(v4.sin_port));
}

}  // namespace

Timers::Key Timers::add(double at, std::function<void()> action) {
  Key key{at, ++count_};
  timers_.emplace(key, std::move(action));
  return key;
}

void Timers::run(double now) {
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto action = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    action();
  }
}

double Timers::next() const { return timers_.empty() ? HUGE_VAL : timers_.begin()->first.first; }

struct Server::Listener : Pollable {
  Listener(Server& server, int fd) : server(server), fd(fd) {}
  ~Listener() override { ::close(fd); }
  void ready(uint32_t) override { server.accept(fd); }
  Server& server;
  int fd;
};

Server::Server(HttpSettings settings, MakeStream make_stream, std::function<void()> end_of_turn)
    : settings_(settings),
      make_stream_(std::move(make_stream)),
      end_of_turn_(std::move(end_of_turn)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wakeup_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  check(epoll_, "epoll_create1");
  check(wakeup_, "eventfd");
  add(wakeup_, EPOLLIN, nullptr);
}

Server::~Server() {
  close_all();
  connections_.clear();
  listeners_.clear();
  ::close(wakeup_);
  ::close(epoll_);
}

void Server::add(int fd, uint32_t events, Pollable* pollable) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = pollable;
  check(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void Server::listen(int fd) {
  listeners_.push_back(std::make_unique<Listener>(*this, fd));
  add(fd, EPOLLIN, listeners_.back().get());
}

void Server::accept(int fd) {
  for (int i = 0; i < kEvents; i++) {
    if (strangers_.size() >= kStrangers && !make_room_for_connection()) return pause(fd);
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    int accepted = accept4(fd, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted < 0) {
      if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
      return make_room_for_connection() ? void() : pause(fd);
    }
    auto context = std::atomic_load(&tls_);
    SSL* ssl = context ? SSL_new(context.get()) : nullptr;
    if (context && !ssl) {  // out of memory: nobody is served in plaintext instead
      ::close(accepted);
      continue;
    }
    auto connection = std::make_unique<Connection>(*this, accepted, name_of(address), ssl);
    auto* key = connection.get();
    connections_.emplace(key, std::move(connection));
  }
}

// Closes connections that have been silent since they were made, if there are any.
bool Server::make_room_for_connection() {
  double now = monotonic_seconds();
  int removed = 0;
  while (removed < kRemovedStrangers && !strangers_.empty() && now - strangers_.front()->created_ > kSilence) {
    auto* oldest = strangers_.front();
    oldest->greet();
    oldest->close();
    removed++;
  }
  return removed > 0;
}

// Leaves callers in the backlog for a moment instead of spinning.
void Server::pause(int fd) {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  timers.add(monotonic_seconds() + kAcceptPause, [this, fd] {
    for (const auto& listener : listeners_) {
      if (listener->fd == fd) add(fd, EPOLLIN, listener.get());
    }
  });
}

void Server::run() {
  std::vector<epoll_event> events(kEvents);
  while (!stopping_) {
    bool busy = !again_.empty() || !dirty_.empty() || !handshakes_.empty();
    double wait = std::min(timers.next(), connections_.empty() ? HUGE_VAL : next_second_) - monotonic_seconds();
    int timeout = busy ? 0 : std::isinf(wait) ? -1 : int(std::clamp(std::ceil(wait * 1000), 0.0, 60'000.0));
    int count = epoll_wait(epoll_, events.data(), kEvents, timeout);
    std::vector<Connection*> again;
    again.swap(again_);
    for (auto* connection : again) {
      connection->again_ = false;
      connection->ready(EPOLLIN);
    }
    for (int i = 0; i < count; i++) {
      if (auto* pollable = static_cast<Pollable*>(events[size_t(i)].data.ptr)) {
        pollable->ready(events[size_t(i)].events);
      } else {
        uint64_t value;
        [[maybe_unused]] ssize_t ignored = ::read(wakeup_, &value, sizeof value);
        woken_ = false;  // not before it is read: a wake-up between the two would be lost, and all after it
      }
    }
    shake_hands();
    double now = monotonic_seconds();
    timers.run(now);
    check_second(now);
    end_of_turn_();
    flush_all();
    if (held_ > settings_.held_bytes) drop_most_held();
    end_of_turn_();  // flushing ends calls; what that makes to send goes out in the next turn, which follows at once
    remove_dead();
  }
}

void Server::shake_hands() {
  for (int i = 0; i < kHandshakesPerTurn && !handshakes_.empty(); i++) {
    auto* connection = handshakes_.front();
    handshakes_.pop_front();
    if (!connection->closed() && !connection->session_) connection->handshake();
  }
}

void Server::check_second(double now) {
  if (now < next_second_) return;
  next_second_ = now + kSecond;
  for (const auto& [key, connection] : connections_) {
    if (!connection->closed()) connection->check_streams(now);
  }
}

// The connection that holds most loses its largest streams, until all hold what they may together.
void Server::drop_most_held() {
  while (held_ > settings_.held_bytes) {
    Connection* most = nullptr;
    for (const auto& [key, connection] : connections_) {
      if (!connection->closed() && (!most || connection->held_ > most->held_)) most = key;
    }
    if (!most || most->streams_.empty()) return;
    auto largest = std::max_element(most->streams_.begin(), most->streams_.end(), [](const auto& a, const auto& b) {
      return a.second->held() < b.second->held();
    });
    if (!largest->second->open()) return;
    largest->second->reset(NGHTTP2_ENHANCE_YOUR_CALM);
  }
}

void Server::flush_all() {
  // Flushing may end calls, which makes further connections dirty.
  while (!dirty_.empty()) {
    std::vector<Connection*> dirty;
    dirty.swap(dirty_);
    for (auto* connection : dirty) connection->flush();
  }
}

void Server::remove_dead() {
  if (dead_.empty()) return;
  auto is_closed = [](const Connection* connection) { return connection->closed(); };
  again_.erase(std::remove_if(again_.begin(), again_.end(), is_closed), again_.end());
  dirty_.erase(std::remove_if(dirty_.begin(), dirty_.end(), is_closed), dirty_.end());
  handshakes_.erase(std::remove_if(handshakes_.begin(), handshakes_.end(), is_closed), handshakes_.end());
  for (auto* connection : std::exchange(dead_, {})) connections_.erase(connection);
}

void Server::resume() {
  for (const auto& [key, connection] : connections_) {
    if (connection->session_ && !(connection->waiting_for_ & EPOLLIN) && !connection->is_paused()) connection->mark_again();
  }
}

void Server::wake() {
  if (woken_.exchange(true)) return;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t ignored = ::write(wakeup_, &one, sizeof one);
}

void Server::stop_listening() { listeners_.clear(); }

void Server::shut_down_all() {
  for (const auto& [key, connection] : connections_) connection->shut_down();
}

void Server::close_all() {
  for (const auto& [key, connection] : connections_) {
    if (!connection->closed()) connection->flush();
    connection->close();
  }
}

}  // namespace lectern
