#include "http.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <random>

#include "clock.h"
#include "tls.h"

namespace lectern {
namespace {

constexpr size_t kReadBytes = 64 * 1024;
constexpr int kReadsPerTurn = 4;              // so that one caller does not keep the others waiting
constexpr size_t kPendingBytes = 256 * 1024;  // frames made ahead of what the socket takes
constexpr int32_t kConnectionWindow = 16 * 1024 * 1024;
constexpr double kRoundTrip = 0.3;     // between continents: calls that were sent before a GOAWAY arrived
constexpr double kUnread = 1.0;        // seconds without progress after which a caller does not read
constexpr size_t kStreamBytes = 1024;  // of a stream without its contents
// Frames that cost the server and not the caller. Callers with tight deadlines cancel some hundred calls a second.
constexpr double kResetsPerSecond = 2000, kResetBurst = 20'000;
constexpr double kEmptiesPerSecond = 100, kEmptyBurst = 1000;
constexpr double kSettingsPerSecond = 100, kSettingsBurst = 1000;  // each may change the window of every stream

std::vector<nghttp2_nv> name_values(const Headers& headers) {
  std::vector<nghttp2_nv> result;
  result.reserve(headers.size());
  for (const auto& [name, value] : headers) {
    auto bytes = [](const std::string& s) { return reinterpret_cast<uint8_t*>(const_cast<char*>(s.data())); };
    // Request ids differ from call to call: indexed, they would displace the headers that recur.
    uint8_t flags = name == "x-request-id" ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
    result.push_back({bytes(name), bytes(value), name.size(), value.size(), flags});
  }
  return result;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- streams

void Stream::respond(const Headers& headers) {
  if (!open() || responded_) return;
  responded_ = true;
  progress_ = monotonic_seconds();
  auto values = name_values(headers);
  nghttp2_data_provider provider{};
  provider.source.ptr = this;
  provider.read_callback = [](nghttp2_session*, int32_t, uint8_t* buffer, size_t room, uint32_t* flags,
                              nghttp2_data_source* source, void*) -> ssize_t {
    return static_cast<Stream*>(source->ptr)->read_out(buffer, room, flags);
  };
  nghttp2_submit_response(connection_->session_.get(), id_, values.data(), values.size(), &provider);
  connection_->mark_dirty();
}

void Stream::respond_only(const Headers& headers) {
  if (!open() || responded_) return;
  responded_ = finished_ = true;
  progress_ = monotonic_seconds();
  auto values = name_values(headers);
  nghttp2_submit_response(connection_->session_.get(), id_, values.data(), values.size(), nullptr);
  connection_->mark_dirty();
}

void Stream::write(std::string bytes) {
  if (!open() || finished_ || bytes.empty()) return;
  if (!unsent_) progress_ = monotonic_seconds();
  if (!connection_->unread_) connection_->read_out_ = monotonic_seconds();
  unsent_ += bytes.size();
  connection_->unread_ += bytes.size();
  hold(bytes.size(), 0);
  out_.push_back(std::move(bytes));
  if (deferred_) nghttp2_session_resume_data(connection_->session_.get(), id_);
  deferred_ = false;
  connection_->mark_dirty();
}

void Stream::finish(Headers trailers) {
  if (!open() || finished_) return;
  finished_ = true;
  if (!unsent_) progress_ = monotonic_seconds();
  trailers_ = std::move(trailers);
  if (deferred_) nghttp2_session_resume_data(connection_->session_.get(), id_);
  deferred_ = false;
  connection_->mark_dirty();
}

void Stream::reset(uint32_t error_code) {
  if (!open()) return;
  nghttp2_submit_rst_stream(connection_->session_.get(), NGHTTP2_FLAG_NONE, id_, error_code);
  connection_->mark_dirty();
  release();  // even if the caller never reads the reset
}

void Stream::release() {
  if (!open()) return;
  auto kept = shared_from_this();
  released_ = true;
  on_closed();
  connection_->unread_ -= unsent_;
  hold(0, held_);
  out_.clear();
  unsent_ = offset_ = 0;
}

void Stream::hold(size_t more, size_t less) {
  for (size_t* total : {&held_, &connection_->held_, &connection_->server_.held_}) *total = *total + more - less;
}

void Stream::keeps(size_t bytes) {
  if (!open()) return;
  hold(bytes, kept_);
  kept_ = bytes;
}

void Stream::let_send(size_t bytes) {
  if (!open()) return;
  auto size = int32_t(std::min<size_t>(bytes, NGHTTP2_MAX_WINDOW_SIZE));
  nghttp2_session_set_local_window_size(connection_->session_.get(), NGHTTP2_FLAG_NONE, id_, size);
  connection_->mark_dirty();
}

void Stream::consumed(size_t bytes) {
  if (!open()) return;
  nghttp2_session_consume_stream(connection_->session_.get(), id_, bytes);
  connection_->mark_dirty();
}

ssize_t Stream::read_out(uint8_t* buffer, size_t room, uint32_t* flags) {
  if (released_) return NGHTTP2_ERR_DEFERRED;
  size_t count = 0;
  while (count < room && !out_.empty()) {
    const std::string& first = out_.front();
    size_t part = std::min(room - count, first.size() - offset_);
    std::memcpy(buffer + count, first.data() + offset_, part);
    count += part;
    offset_ += part;
    if (offset_ == first.size()) {
      out_.pop_front();
      offset_ = 0;
    }
  }
  bool was_full = unsent_ > kLowWater;
  unsent_ -= count;
  connection_->unread_ -= count;
  hold(0, count);
  if (count) progress_ = connection_->read_out_ = monotonic_seconds();
  if (was_full && unsent_ <= kLowWater) on_sent();
  if (out_.empty() && finished_) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    auto values = name_values(trailers_);
    nghttp2_submit_trailer(connection_->session_.get(), id_, values.data(), values.size());
  } else if (!count) {
    deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  return ssize_t(count);
}

// ---------------------------------------------------------------------------------------------------- connections

struct Callbacks {
  static Connection& of(void* user) { return *static_cast<Connection*>(user); }

  static Stream* stream(Connection& connection, int32_t id) {
    auto entry = connection.streams_.find(id);
    return entry == connection.streams_.end() || !entry->second->open() ? nullptr : entry->second.get();
  }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& connection = of(user);
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto stream = connection.server_.make_stream_();
    stream->connection_ = &connection;
    stream->id_ = frame->hd.stream_id;
    stream->hold(kStreamBytes, 0);
    connection.streams_.emplace(frame->hd.stream_id, std::move(stream));
    return 0;
  }

  static int header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                    const uint8_t* value, size_t value_size, uint8_t, void* user) {
    auto& connection = of(user);
    Stream* to = stream(connection, frame->hd.stream_id);
    if (!to || to->headers_seen_) return 0;  // trailers of a request mean nothing in gRPC
    to->header_bytes_ += name_size + value_size + 32;
    if (to->header_bytes_ > connection.server_.settings_.header_bytes) {
      to->too_many_headers_ = true;
      return 0;
    }
    to->hold(name_size + value_size, 0);
    to->on_header({reinterpret_cast<const char*>(name), name_size}, {reinterpret_cast<const char*>(value), value_size});
    return 0;
  }

  static int frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& connection = of(user);
    const auto& head = frame->hd;
    connection.greet();
    if (head.type == NGHTTP2_SETTINGS && !connection.tolerates(connection.settings_, kSettingsPerSecond, kSettingsBurst)) {
      return refuse(connection);
    }
    if (head.type == NGHTTP2_RST_STREAM && !connection.tolerates(connection.failures_, kResetsPerSecond, kResetBurst)) {
      return refuse(connection);
    }
    if (head.type == NGHTTP2_DATA && head.length == 0 && !(head.flags & NGHTTP2_FLAG_END_STREAM) &&
        !connection.tolerates(connection.empties_, kEmptiesPerSecond, kEmptyBurst)) {
      return refuse(connection);
    }
    if (head.type != NGHTTP2_DATA && head.type != NGHTTP2_HEADERS) return 0;
    Stream* named = stream(connection, head.stream_id);
    if (!named) return 0;
    auto to = named->shared_from_this();
    if (head.type == NGHTTP2_HEADERS && !to->headers_seen_) {
      to->headers_seen_ = true;
      to->ended_ = head.flags & NGHTTP2_FLAG_END_STREAM;
      to->too_many_headers_ ? to->on_too_many_headers() : to->on_headers();
    }
    if (head.flags & NGHTTP2_FLAG_END_STREAM) {
      to->ended_ = true;
      to->on_end();
    }
    return 0;
  }

  // RFC 9113, 8.1: after a complete response the server may ask for no more of the request, without an error.
  static int sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Stream* of_frame = stream(of(user), frame->hd.stream_id);
    bool last = frame->hd.type == NGHTTP2_HEADERS && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (of_frame && last && !of_frame->ended_) {
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    }
    return 0;
  }

  static int refuse(Connection& connection) {
    nghttp2_session_terminate_session(connection.session_.get(), NGHTTP2_ENHANCE_YOUR_CALM);
    connection.mark_dirty();
    return 0;
  }

  static int data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* bytes, size_t size, void* user) {
    auto& connection = of(user);
    nghttp2_session_consume_connection(session, size);
    if (Stream* to = stream(connection, id)) {
      auto kept = to->shared_from_this();
      kept->on_data({reinterpret_cast<const char*>(bytes), size});
    }
    return 0;
  }

  // A caller may also make the server reset its streams (CVE-2025-8671), so that those count as well.
  static int closed(nghttp2_session*, int32_t id, uint32_t error_code, void* user) {
    auto& connection = of(user);
    Stream* ended = stream(connection, id);
    bool failed = ended && !ended->finished_ && error_code != NGHTTP2_NO_ERROR && error_code != NGHTTP2_CANCEL;
    connection.drop(id);
    return failed && !connection.tolerates(connection.failures_, kResetsPerSecond, kResetBurst) ? refuse(connection) : 0;
  }

  static nghttp2_session* session(Connection& connection) {
    static const nghttp2_session_callbacks* callbacks = [] {
      nghttp2_session_callbacks* made = nullptr;
      nghttp2_session_callbacks_new(&made);
      nghttp2_session_callbacks_set_on_begin_headers_callback(made, begin_headers);
      nghttp2_session_callbacks_set_on_header_callback(made, header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(made, frame);
      nghttp2_session_callbacks_set_on_frame_send_callback(made, sent);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, closed);
      return made;
    }();
    static const nghttp2_option* options = [] {
      nghttp2_option* made = nullptr;
      nghttp2_option_new(&made);
      nghttp2_option_set_no_auto_window_update(made, 1);
      nghttp2_option_set_no_closed_streams(made, 1);
      // gRPC lets values begin and end with spaces, HTTP/2 does not.
      nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(made, 1);
      // `tolerates` counts resets instead, by figures of ours.
      nghttp2_option_set_stream_reset_rate_limit(made, uint64_t(2 * kResetBurst), uint64_t(2 * kResetsPerSecond));
      return made;
    }();
    nghttp2_session* made = nullptr;
    nghttp2_session_server_new2(&made, callbacks, &connection, options);
    return made;
  }
};

Connection::Connection(Server& server, int fd, std::string peer, SSL* ssl)
    : server_(server), fd_(fd), peer_(std::move(peer)), ssl_(ssl, SSL_free), session_(nullptr, nghttp2_session_del),
      created_(monotonic_seconds()), strange_(server.strangers_.insert(server.strangers_.end(), this)) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  server_.add(fd, EPOLLIN, this);
  waiting_for_ = EPOLLIN;
  timers_.push_back(server_.timers.add(monotonic_seconds() + server_.settings_.handshake_timeout, [this] {
    if (!greeted_) close();
  }));
  if (ssl_) {
    SSL_set_fd(ssl_.get(), fd);
    SSL_set_accept_state(ssl_.get());
  } else {
    start_session();
  }
}

Connection::~Connection() {
  for (const auto& timer : timers_) server_.timers.cancel(timer);
  greet();
  session_.reset();
  ::close(fd_);
}

void Connection::greet() {
  if (!greeted_) server_.strangers_.erase(strange_);
  greeted_ = true;
}

void Connection::start_session() {
  session_.reset(Callbacks::session(*this));
  const auto& settings = server_.settings_;
  const nghttp2_settings_entry entries[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, settings.max_concurrent_streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, uint32_t(settings.stream_window)},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, uint32_t(settings.header_bytes)},
  };
  nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, entries, std::size(entries));
  nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  if (settings.max_connection_age > 0) {
    // Varied, so that clients do not all reconnect at once.
    thread_local std::minstd_rand random{std::random_device{}()};
    double age = settings.max_connection_age * std::uniform_real_distribution(0.9, 1.1)(random);
    timers_.push_back(server_.timers.add(monotonic_seconds() + age, [this] { shut_down(); }));
    timers_.push_back(server_.timers.add(monotonic_seconds() + age + settings.max_connection_age_grace, [this] { close(); }));
  }
  mark_dirty();
}

void Connection::handshake() {
  ERR_clear_error();
  int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    const unsigned char* protocol = nullptr;
    unsigned int size = 0;
    SSL_get0_alpn_selected(ssl_.get(), &protocol, &size);
    if (!size) return close();  // it speaks no HTTP/2; `choose_h2` has refused everything else
    if (std::unique_ptr<X509, decltype(&X509_free)> peer(SSL_get1_peer_certificate(ssl_.get()), X509_free); peer) {
      subject_ = subject_of(peer.get());
    }
    start_session();
    mark_again();
    return wait();
  }
  int error = SSL_get_error(ssl_.get(), result);
  if (error == SSL_ERROR_WANT_READ) return wait_for(EPOLLIN);
  if (error == SSL_ERROR_WANT_WRITE) return wait_for(EPOLLOUT);
  close();
}

void Connection::ready(uint32_t events) {
  if (closed_) return;
  if (events & EPOLLERR) return close();
  if (!session_) {
    if (!waiting_for_) return;  // it is in line
    wait_for(0);
    return server_.handshakes_.push_back(this);
  }
  if (events & EPOLLOUT) read_wants_write_ = false;
  if (events & (EPOLLOUT | EPOLLHUP)) mark_dirty();
  if (events & (EPOLLIN | EPOLLHUP) || ssl_) read();
}

// Whether a caller gets nothing more made, because it does not read, or makes calls faster than they can be ended.
bool Connection::is_paused() const {
  return pending_.size() - pending_start_ > kPendingBytes || *lingering_ > server_.settings_.max_concurrent_streams;
}

void Connection::read() {
  static thread_local std::vector<char> buffer(kReadBytes);
  for (int i = 0; i < kReadsPerTurn && !closed_; i++) {
    if (is_paused()) return wait();
    ssize_t size = receive(buffer.data(), buffer.size());
    if (size == 0) return wait();  // a pause may have ended with nothing to read
    if (size < 0) return close();
    ssize_t used = nghttp2_session_mem_recv(session_.get(), reinterpret_cast<uint8_t*>(buffer.data()), size_t(size));
    mark_dirty();
    if (used < 0) {
      if (used == NGHTTP2_ERR_BAD_CLIENT_MAGIC || used == NGHTTP2_ERR_FLOODED || used == NGHTTP2_ERR_NOMEM) return close();
      nghttp2_session_terminate_session(session_.get(), NGHTTP2_PROTOCOL_ERROR);
      return;
    }
    if (size_t(size) < buffer.size() && !(ssl_ && SSL_pending(ssl_.get()))) return;
  }
  if (!closed_ && ssl_ && SSL_pending(ssl_.get())) mark_again();
}

// Bytes read; 0 = none now, negative = the connection has ended.
ssize_t Connection::receive(char* buffer, size_t size) {
  if (!ssl_) {
    ssize_t count = ::recv(fd_, buffer, size, 0);
    if (count > 0) return count;
    return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
  }
  ERR_clear_error();
  int count = SSL_read(ssl_.get(), buffer, int(size));
  if (count > 0) return count;
  int error = SSL_get_error(ssl_.get(), count);
  read_wants_write_ = error == SSL_ERROR_WANT_WRITE;  // to answer an update of keys
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

ssize_t Connection::send(const char* bytes, size_t size) {
  if (!ssl_) {
    ssize_t count = ::send(fd_, bytes, size, MSG_NOSIGNAL);
    if (count > 0) return count;
    return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
  }
  ERR_clear_error();
  int count = SSL_write(ssl_.get(), bytes, int(std::min<size_t>(size, 1 << 30)));
  if (count > 0) return count;
  int error = SSL_get_error(ssl_.get(), count);
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

void Connection::flush() {
  dirty_ = false;
  if (closed_ || !session_) return;
  bool was_paused = is_paused();
  if (!is_blocked()) written_ = monotonic_seconds();
  while (true) {
    while (pending_.size() - pending_start_ < kPendingBytes) {
      const uint8_t* bytes = nullptr;
      ssize_t size = nghttp2_session_mem_send(session_.get(), &bytes);
      if (size < 0) return close();
      if (size == 0) break;
      pending_.append(reinterpret_cast<const char*>(bytes), size_t(size));
    }
    if (pending_start_ == pending_.size()) break;
    if (!write_out()) break;
  }
  if (closed_) return;
  bool ended = !nghttp2_session_want_read(session_.get()) && !nghttp2_session_want_write(session_.get());
  if (ended && !is_blocked()) return close();
  if (was_paused && !is_paused()) mark_again();
  wait();
}

// Whether the socket took everything.
bool Connection::write_out() {
  while (pending_start_ < pending_.size()) {
    ssize_t sent = send(pending_.data() + pending_start_, pending_.size() - pending_start_);
    if (sent < 0) {
      close();
      return false;
    }
    if (sent == 0) {
      if (pending_start_ < kPendingBytes) return false;
      pending_.erase(0, pending_start_);
      pending_start_ = 0;
      return false;
    }
    pending_start_ += size_t(sent);
    written_ = monotonic_seconds();
  }
  pending_.clear();
  if (pending_.capacity() > 2 * kPendingBytes) pending_.shrink_to_fit();
  pending_start_ = 0;
  return true;
}

void Connection::wait_for(uint32_t events) {
  if (events == waiting_for_ || closed_) return;
  waiting_for_ = events;
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  epoll_ctl(server_.epoll_, EPOLL_CTL_MOD, fd_, &event);
}

void Connection::wait() {
  uint32_t events = 0;
  if (!is_paused() && !read_wants_write_) events |= EPOLLIN;
  if (is_blocked() || read_wants_write_) events |= EPOLLOUT;
  wait_for(events);
}

bool Connection::is_unread() const {
  return unread_ > server_.settings_.unread_bytes && monotonic_seconds() - read_out_ > kUnread;
}

// RFC 9113, 6.8: a notice first, and the last stream's number once calls that are on their way have arrived.
void Connection::shut_down() {
  if (closed_ || leaving_) return;
  leaving_ = true;
  if (!session_) return close();
  nghttp2_submit_shutdown_notice(session_.get());
  mark_dirty();
  timers_.push_back(server_.timers.add(monotonic_seconds() + kRoundTrip, [this] {
    int32_t last = nghttp2_session_get_last_proc_stream_id(session_.get());
    nghttp2_submit_goaway(session_.get(), NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0);
    mark_dirty();
  }));
}

void Connection::check_streams(double now) {
  double timeout = server_.settings_.reader_timeout;
  if (is_blocked() && now - written_ > timeout) return close();
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& [id, stream] : streams_) streams.push_back(stream);
  for (const auto& stream : streams) {
    bool waits = stream->responded_ && (stream->unsent_ || stream->finished_);
    if (waits && now - stream->progress_ > timeout) stream->on_unread();
    else if (stream->open()) stream->on_second(now);
  }
}

bool Connection::tolerates(Allowance& allowance, double per_second, double most) {
  double now = monotonic_seconds();
  allowance.used = std::max(0.0, allowance.used - (now - allowance.updated) * per_second) + 1;
  allowance.updated = now;
  return allowance.used <= most;
}

void Connection::drop(int32_t id) {
  auto entry = streams_.find(id);
  if (entry == streams_.end()) return;
  auto stream = std::move(entry->second);
  streams_.erase(entry);
  stream->release();
  stream->connection_ = nullptr;
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  epoll_ctl(server_.epoll_, EPOLL_CTL_DEL, fd_, nullptr);
  while (!streams_.empty()) drop(streams_.begin()->first);
  ::shutdown(fd_, SHUT_RDWR);
  server_.dead_.push_back(this);
}

void Connection::mark_dirty() {
  if (dirty_ || closed_) return;
  dirty_ = true;
  server_.dirty_.push_back(this);
}

void Connection::mark_again() {
  if (again_ || closed_) return;
  again_ = true;
  server_.again_.push_back(this);
}

}  // namespace lectern
