// An HTTP/2 server on one thread: sockets, TLS and timers here, HTTP/2 and HPACK by nghttp2.
// Specification: RFC 9113. Everything here runs on the thread of `Server::run`, except what says otherwise.
#pragma once

#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lectern {

using Header = std::pair<std::string, std::string>;
using Headers = std::vector<Header>;

struct HttpSettings {
  uint32_t max_concurrent_streams = 256;
  size_t header_bytes = 16 * 1024;   // of all headers of a request, decoded
  size_t stream_window = 64 * 1024;  // bytes that a caller may send before anybody reads them
  double max_connection_age = 0;     // seconds; 0 = no limit
  double max_connection_age_grace = 0;
  double handshake_timeout = 20;  // for TLS, preface and SETTINGS
  double reader_timeout = 20;     // a response of which nothing was read for so long is given up
  size_t held_bytes = 256 << 20;  // of headers, small requests that arrive and responses that are not read, of all callers
  size_t unread_bytes = 64 << 20; // of responses of one connection, whose caller does not read
};

class Connection;

// One request and its response. Subclasses say what is served.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  virtual ~Stream() = default;
  virtual void on_header(std::string_view name, std::string_view value) = 0;
  virtual void on_too_many_headers() = 0;
  virtual void on_headers() = 0;
  virtual void on_data(std::string_view bytes) = 0;
  virtual void on_end() = 0;                       // the caller has sent everything
  virtual void on_sent() {}                        // unsent() fell to kLowWater or less
  virtual void on_closed() = 0;                    // answered, reset or lost: the last call of a stream
  virtual void on_unread() { reset(NGHTTP2_CANCEL); }  // the caller has read nothing for `reader_timeout`
  virtual void on_second(double) {}                // about once a second, with the time

  static constexpr size_t kLowWater = 64 * 1024;

  bool open() const { return connection_ != nullptr && !released_; }
  size_t unsent() const { return unsent_; }
  size_t held() const { return held_; }
  void respond(const Headers& headers);               // then `write` and `finish`
  void write(std::string bytes);
  void finish(Headers trailers);
  void respond_only(const Headers& headers);          // a response without a body
  void reset(uint32_t error_code);
  void let_send(size_t bytes);                        // widens the stream's window to as many bytes
  void consumed(size_t bytes);                        // bytes of `on_data` that need no more room

 protected:
  Connection& connection() const { return *connection_; }
  void keeps(size_t bytes);  // how much of the request the subclass holds at present

 private:
  friend class Connection;
  friend class Server;
  friend struct Callbacks;
  ssize_t read_out(uint8_t* buffer, size_t room, uint32_t* flags);
  void hold(size_t more, size_t less);
  void release();

  Connection* connection_ = nullptr;
  int32_t id_ = 0;
  size_t header_bytes_ = 0, kept_ = 0, held_ = 0;
  bool too_many_headers_ = false, headers_seen_ = false, ended_ = false, responded_ = false;
  bool released_ = false;
  std::deque<std::string> out_;
  size_t offset_ = 0, unsent_ = 0;
  bool finished_ = false, deferred_ = false;
  Headers trailers_;
  double progress_ = 0;  // when the caller last took of the response, or there came to be something to take
};

class Timers {
 public:
  using Key = std::pair<double, uint64_t>;
  Key add(double at, std::function<void()> action);
  void cancel(const Key& key) { timers_.erase(key); }
  void run(double now);
  double next() const;  // infinity = none

 private:
  std::map<Key, std::function<void()>> timers_;
  uint64_t count_ = 0;
};

struct Pollable {
  virtual ~Pollable() = default;
  virtual void ready(uint32_t events) = 0;
};

class Server;

class Connection : public Pollable {
 public:
  Connection(Server& server, int fd, std::string peer, SSL* ssl);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void ready(uint32_t events) override;
  void flush();
  void shut_down();             // GOAWAY: no further requests; those under way go on
  void check_streams(double now);
  const std::string& peer() const { return peer_; }
  const std::string& subject() const { return subject_; }  // of the client's certificate
  size_t streams() const { return streams_.size(); }
  bool closed() const { return closed_; }
  bool is_unread() const;  // whether its caller lets more responses wait than it may
  // Streams that are over for the caller, but not yet for whoever serves them; with too many of them nothing is read.
  const std::shared_ptr<size_t>& lingering() const { return lingering_; }

 private:
  friend class Stream;
  friend class Server;
  friend struct Callbacks;
  void handshake();
  void start_session();
  void read();
  bool write_out();
  void close();
  void drop(int32_t id);
  void mark_dirty();
  void mark_again();
  bool is_paused() const;
  bool is_blocked() const { return pending_.size() - pending_start_ > 0; }
  void wait_for(uint32_t events);
  void wait();  // for what it can go on with
  void greet();
  struct Allowance {
    double used = 0, updated = 0;
  };
  static bool tolerates(Allowance& allowance, double per_second, double most);
  ssize_t receive(char* buffer, size_t size);
  ssize_t send(const char* bytes, size_t size);

  Server& server_;
  int fd_;
  std::string peer_, subject_;
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
  std::unique_ptr<nghttp2_session, decltype(&nghttp2_session_del)> session_;
  std::unordered_map<int32_t, std::shared_ptr<Stream>> streams_;
  std::string pending_;      // frames that the socket has not taken yet
  size_t pending_start_ = 0, held_ = 0, unread_ = 0;
  std::shared_ptr<size_t> lingering_ = std::make_shared<size_t>(0);
  uint32_t waiting_for_ = 0;
  double created_, written_ = 0, read_out_ = 0;  // when the socket, and when HTTP/2, last took bytes
  bool greeted_ = false, closed_ = false, dirty_ = false, leaving_ = false, again_ = false, read_wants_write_ = false;
  std::list<Connection*>::iterator strange_;  // its place in the server's list until it is greeted
  Allowance failures_, empties_, settings_;
  std::vector<Timers::Key> timers_;
};

class Server {
 public:
  using MakeStream = std::function<std::shared_ptr<Stream>()>;

  Server(HttpSettings settings, MakeStream make_stream, std::function<void()> end_of_turn);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void listen(int fd);  // a bound, listening, non-blocking socket; call before `run`
  void run();           // until `stop`
  void wake();          // any thread: ends the wait for events
  void stop() { stopping_ = true; wake(); }  // any thread

  void stop_listening();
  void shut_down_all();   // a GOAWAY on every connection
  void close_all();
  void resume();          // streams that lingered have ended

  // Any thread, before or while it runs.
  void set_tls(std::shared_ptr<SSL_CTX> context) { std::atomic_store(&tls_, std::move(context)); }

  Timers timers;

 private:
  friend class Stream;
  friend class Connection;
  friend struct Callbacks;
  struct Listener;
  void accept(int fd);
  bool make_room_for_connection();
  void pause(int fd);
  void add(int fd, uint32_t events, Pollable* pollable);
  void shake_hands();
  void check_second(double now);
  void drop_most_held();
  void flush_all();
  void remove_dead();

  HttpSettings settings_;
  MakeStream make_stream_;
  std::function<void()> end_of_turn_;
  int epoll_, wakeup_;
  std::atomic<bool> stopping_{false}, woken_{false};
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> dirty_, dead_, again_;  // again_: OpenSSL holds bytes of theirs
  std::deque<Connection*> handshakes_;             // that can go on
  std::list<Connection*> strangers_;               // of which no frame has come, the oldest first
  size_t held_ = 0;
  double next_second_ = 0;
  std::shared_ptr<SSL_CTX> tls_;
};

}  // namespace lectern
