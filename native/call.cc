#include "call.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <system_error>

namespace lectern {
namespace {

constexpr size_t kSmallMessage = 64 * 1024;  // larger ones need room in the budget
constexpr double kSlowest = 4096;            // bytes a second that a request must have while it arrives
constexpr double kCallsRetry = 0.1, kMemoryRetry = 0.5;
constexpr double kEarlier = 0.9;  // share of the time to the deadline after which waiting for memory ends
constexpr size_t kPythonCalls = 64;  // that may wait for Python to refuse them
constexpr size_t kIdBytes = 16, kIdPool = 256, kLongestId = 128, kPriorityDigits = 9, kVersionDigits = 18;

const Headers kStart{{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-accept-encoding", "identity,deflate,gzip"}};

bool is_safe_id(std::string_view id) {
  bool visible = std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  return !id.empty() && id.size() <= kLongestId && visible;
}

std::string new_id() {
  constexpr char digits[] = "0123456789abcdef";
  thread_local std::array<unsigned char, kIdPool> pool;
  thread_local size_t used = pool.size();
  if (used + kIdBytes > pool.size()) {
    if (getrandom(pool.data(), pool.size(), 0) != ssize_t(pool.size())) throw std::system_error(errno, std::generic_category());
    used = 0;
  }
  std::string id;
  for (size_t i = 0; i < kIdBytes; i++) {
    unsigned char byte = pool[used++];
    id += {digits[byte >> 4], digits[byte & 15]};
  }
  return id;
}

std::string with_commas(size_t number) {
  std::string digits = std::to_string(number);
  for (int at = int(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

// The graph that a request names; without a version, its latest. Null if there is none.
const Route* route_of(const Routes& routes, std::string_view model, std::string_view version) {
  auto versions = routes.find(std::string(model));
  if (versions == routes.end() || versions->second.empty() || version.size() > kVersionDigits) return nullptr;
  int64_t number = 0;
  for (char c : version) {
    if (c < '0' || c > '9') return nullptr;
    number = 10 * number + (c - '0');
  }
  if (!number) return &versions->second.rbegin()->second;
  auto route = versions->second.find(number);
  return route == versions->second.end() ? nullptr : &route->second;
}

std::string without_port(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }

double wall_seconds() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

}  // namespace

void Inference::finished(const Failure* failure) {
  Front::Outcome outcome{std::move(call_), {}, {}};
  if (failure) {
    outcome.failure = *failure;
  } else {
    outcome.response = infer_response(queue->config(), id, wanted, outputs);
    outputs.clear();  // not after a failure: a run may still write the outputs of a caller who went away
  }
  front_.post(std::move(outcome));
}

// ----------------------------------------------------------------------------------------------------- a call's start

void Call::on_header(std::string_view name, std::string_view value) {
  if (name == ":method") http_method_ = value;
  else if (name == ":path") path_ = value;
  else if (name == "content-type") content_type_ = value;
  else if (name == "grpc-encoding") encoding_ = value;
  else if (name == "grpc-timeout") deadline_ = started_ + timeout_of(value);
  else if (name.front() == ':' || name == "te" || name == "host" || name == "grpc-accept-encoding") return;
  else if (name.size() > 4 && name.substr(name.size() - 4) == "-bin") return;
  else metadata_.emplace_back(name, value);
}

void Call::on_too_many_headers() {
  request_id_ = new_id();
  fail({Code::resource_exhausted, "the metadata has more than " + with_commas(front_.settings_.http.header_bytes) + " bytes"});
}

void Call::on_headers() {
  if (http_method_ != "POST" || !is_grpc(content_type_)) {
    state_ = State::over;
    respond_only({{":status", "415"}});
    return;
  }
  int ids = 0, tokens = 0, priorities = 0;
  for (const auto& [name, value] : metadata_) {
    if (name == "x-request-id") request_id_ = ids++ ? "" : value;
    else if (name == "authorization") authorization_ = tokens++ ? "" : value;
    else if (name == "x-priority") priority_ = priorities++ || value.empty() ? "?" : value;
  }
  if (!is_safe_id(request_id_)) request_id_ = new_id();
  client_ = connection().subject();
  admit();
}

void Call::admit() {
  auto entry = front_.method_of_path_.find(path_);
  if (entry == front_.method_of_path_.end()) return fail({Code::unimplemented, "there is no method " + path_});
  method_ = entry->second;
  front_.active_++;
  counted_ = true;
  state_ = State::receiving;
  looked_ = started_;
  if (deadline_ <= started_) return late();
  if (deadline_ < kNever) set_timer(deadline_, &Call::late);
  if (method().client_streaming && begin()) to_python({}, false);
}

// Whether there is room for one more call at work. Requests that are still arriving take none: they may never arrive.
// Python refuses its calls itself, health checks never, so that here only their memory is bounded.
bool Call::begin() {
  bool infers = front_.infers_here_ && path_ == front_.settings_.infer_path;
  if (connection().is_unread()) {
    fail({Code::resource_exhausted, "the responses on this connection are not read; read them first", kCallsRetry});
  } else if (front_.working_ >= front_.settings_.calls * (infers ? 1 : 2) + (infers ? 0 : kPythonCalls)) {
    refused_ = infers;
    fail({Code::resource_exhausted, std::to_string(front_.settings_.calls) +
          " calls are under way, the most at once; try again later", kCallsRetry});
  } else {
    front_.working_++;
    working_ = true;
  }
  return working_;
}

void Call::set_timer(double at, void (Call::*action)()) {
  clear_timer();
  timer_ = front_.server_.timers.add(at, [this, action] {
    timer_set_ = false;
    auto kept = self();
    (this->*action)();
  });
  timer_set_ = true;
}

void Call::clear_timer() {
  if (timer_set_) front_.server_.timers.cancel(timer_);
  timer_set_ = false;
}

void Call::late() {
  if (state_ == State::inferring) {
    was_late_ = true;
    inference_->queue->abandon(inference_);
  } else {
    fail({Code::deadline_exceeded, "the deadline passed"});
  }
}

// -------------------------------------------------------------------------------------------------- a call's requests

void Call::on_data(std::string_view bytes) {
  if (state_ == State::over || state_ == State::inferring || told_end_) return;
  received_ += bytes;
  arrived_ += bytes.size();
  take_messages();
  keeps(reserved_ ? 0 : received_.size());
}

void Call::on_unread() {
  if (state_ != State::in_python) return reset(NGHTTP2_CANCEL);
  if (!std::exchange(told_unread_, true)) tell(Event::Kind::unread);  // Python resets it and says why in its log
}

// A request must go on arriving: else whoever begins many would hold their memory for nothing.
void Call::on_second(double now) {
  bool arrives = state_ == State::receiving || (state_ == State::in_python && sized_ && messages_.empty() && !told_end_);
  double timeout = front_.settings_.http.reader_timeout;
  if (!arrives || waits_for_ || arrived_ >= kSlowest * timeout) {
    arrived_ = 0;
    looked_ = now;
  } else if (now - looked_ > timeout) {
    fail({Code::deadline_exceeded, "the request did not arrive within " + std::to_string(int(timeout)) + " s"});
  }
}

void Call::take_messages() {
  while (state_ != State::over && !told_end_ && received_.size() >= kPrefixBytes && check_prefix()) {
    if (received_.size() < kPrefixBytes + message_size_) return;
    sized_ = false;
    if (!method().client_streaming) {
      if (received_.size() > kPrefixBytes + message_size_) fail({Code::invalid_argument, "the request is not one gRPC message"});
      return;
    }
    messages_.push_back(received_.substr(0, kPrefixBytes + message_size_));
    received_.erase(0, kPrefixBytes + message_size_);
    give_message();
  }
}

// Whether the message at the start of `received_` may arrive; reads its size when it is new.
bool Call::check_prefix() {
  if (waits_for_) return false;
  if (sized_) return true;
  size_t size = 0;
  for (size_t i = 1; i < kPrefixBytes; i++) size = size << 8 | static_cast<unsigned char>(received_[i]);
  if (size > front_.settings_.message_bytes) {
    fail({Code::resource_exhausted, "the message has " + std::to_string(size) + " bytes; the most is " +
          std::to_string(front_.settings_.message_bytes)});
    return false;
  }
  message_size_ = size;
  sized_ = true;
  if (size <= kSmallMessage || size <= reserved_) {
    if (!method().client_streaming && size + kPrefixBytes > front_.settings_.http.stream_window) let_send(size + kPrefixBytes);
    return true;
  }
  if (size > front_.budget_) {
    fail({Code::invalid_argument, "request: needs " + with_commas(size) + " bytes of memory; all requests together may hold " +
          with_commas(front_.budget_)});
    return false;
  }
  waits_for_ = size - reserved_;
  if (front_.reserve(self(), waits_for_)) granted();
  if (!waits_for_) return true;
  double now = monotonic_seconds();
  if (state_ == State::receiving && deadline_ < kNever) set_timer(now + kEarlier * (deadline_ - now), &Call::out_of_memory);
  return false;
}

void Call::granted() {
  bool waited = timer_set_ && state_ == State::receiving;
  reserved_ += waits_for_;
  waits_for_ = arrived_ = 0;
  looked_ = monotonic_seconds();
  received_.reserve(kPrefixBytes + message_size_);
  let_send(kPrefixBytes + message_size_ + (method().client_streaming ? front_.settings_.http.stream_window : 0));
  if (waited) set_timer(deadline_, &Call::late);
}

bool Call::stop_waiting() { return front_.waiting_.erase(std::exchange(ticket_, 0)); }

void Call::out_of_memory() {
  fail({Code::resource_exhausted, "other requests hold the memory: " + with_commas(waits_for_) + " bytes are not free; try again later",
        kMemoryRetry});
}

void Call::on_end() {
  ended_ = true;
  if (state_ == State::over) return;
  if (method().client_streaming) {
    if (!received_.empty()) return fail({Code::invalid_argument, "the request ends inside a message"});
    return give_message();
  }
  if (received_.empty()) return fail({Code::invalid_argument, "the request is not one gRPC message"});
  if (received_.size() != kPrefixBytes + message_size_ || received_.size() < kPrefixBytes) {
    return fail({Code::invalid_argument, "the request ends inside a message"});
  }
  dispatch();
}

void Call::read() {
  wanted_ = true;
  give_message();
}

// Gives Python the next message, or the end, if it has asked for it.
void Call::give_message() {
  if (!wanted_ || state_ != State::in_python) return;
  if (!messages_.empty()) {
    wanted_ = false;
    Event event(Event::Kind::message, number_);
    event.message = std::move(messages_.front());
    messages_.pop_front();
    consumed(event.message.size());
    front_.push(std::move(event));
  } else if (ended_ && !told_end_) {
    told_end_ = true;
    wanted_ = false;
    tell(Event::Kind::ended);
  }
}

// ------------------------------------------------------------------------------------------------------ who answers it

void Call::dispatch() {
  if (!begin() || (path_ == front_.settings_.infer_path && infer())) return;
  to_python(std::move(received_), true);
}

// Whether the call is an inference in the common form, which its graph's queue has accepted or refused.
bool Call::infer() {
  bool number = std::all_of(priority_.begin(), priority_.end(), [](char c) { return c >= '0' && c <= '9'; });
  bool uncompressed = received_[0] == 0;
  if (!front_.infers_here_ || !uncompressed || !number || priority_.size() > kPriorityDigits) return false;
  auto inference = std::make_shared<Inference>(front_, self(), std::move(received_));
  auto allowance = prepare(*inference) ? authorised() : std::nullopt;
  if (allowance) {
    double now = monotonic_seconds();
    auto [lease, failure] = front_.quota_->admit(client_.empty() ? without_port(connection().peer()) : client_, *allowance, now);
    if (!failure) failure = inference->queue->submit(inference, now);
    // A graph that is being unloaded has a successor perhaps, which Python knows.
    if (!failure || failure->code != Code::unavailable) {
      inference_ = inference;
      lease_ = std::move(lease);
      front_.inferring_++;
      state_ = State::inferring;
      failure ? fail(*failure) : void(front_.touched_.insert(inference->queue));
      return true;
    }
    if (lease) lease->give_back();
  }
  received_ = std::move(inference->message);
  return false;
}

// Whether the graph can take the request, all of which `inference` then holds.
bool Call::prepare(Inference& inference) {
  auto request = parse_infer(std::string_view(inference.message).substr(kPrefixBytes));
  auto routes = std::atomic_load(&front_.routes_);
  const Route* route = request ? route_of(*routes, request->model, request->version) : nullptr;
  if (!route) return false;
  const auto& config = route->queue->config();
  auto inputs = tensors_of(*request, config, route->shared, front_.settings_.axis_length);
  auto outputs = outputs_of(*request, config);
  if (!inputs || !outputs) return false;
  inference.inputs = std::move(*inputs);
  inference.wanted = std::move(*outputs);
  inference.id = request->id;
  inference.queue = route->queue;
  inference.deadline = deadline_;
  inference.priority = priority_.empty() ? 0 : std::stoi(priority_);
  model_ = config.model + "/" + std::to_string(config.version);
  return true;
}

// What the caller may ask, if it may infer; nothing if Python must say why not.
std::optional<Allowance> Call::authorised() {
  auto access = std::atomic_load(&front_.access_);
  if (!access->tokens) return access->allowance;
  auto space = authorization_.find(' ');
  if (space == std::string::npos) return {};
  std::string scheme = authorization_.substr(0, space);
  std::transform(scheme.begin(), scheme.end(), scheme.begin(), [](char c) { return char(c | 0x20); });
  std::array<unsigned char, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(authorization_.data()) + space + 1, authorization_.size() - space - 1, digest.data());
  const Grant* grant = nullptr;
  // Every entry is compared, each in constant time, so that the response time reveals nothing.
  for (const auto& candidate : access->grants) {
    if (CRYPTO_memcmp(candidate.digest.data(), digest.data(), digest.size()) == 0) grant = &candidate;
  }
  if (!grant || scheme != "bearer" || grant->expires <= wall_seconds() || !grant->may_infer) return {};
  client_ = grant->client;
  return grant->allowance;
}

void Call::to_python(std::string message, bool has_message) {
  clear_timer();
  state_ = State::in_python;
  number_ = ++front_.calls_;
  front_.in_python_.emplace(number_, self());
  Event event(Event::Kind::start, number_);
  event.method = method_;
  event.deadline = deadline_;
  event.request_id = request_id_;
  event.peer = connection().peer();
  event.client = connection().subject();
  event.encoding = encoding_;
  event.metadata = std::move(metadata_);
  event.message = std::move(message);
  event.has_message = has_message;
  front_.push(std::move(event));
}

void Call::tell(Event::Kind kind) {
  if (state_ == State::in_python) front_.push(Event(kind, number_));
}

// ------------------------------------------------------------------------------------------------------ a call's answer

void Call::answer(std::string response) {
  if (!open() || state_ == State::over) return;
  if (state_ == State::inferring && response.size() - kPrefixBytes > front_.settings_.message_bytes) {
    return fail({Code::resource_exhausted, "the response has " + std::to_string(response.size() - kPrefixBytes) +
                 " bytes; the most is " + std::to_string(front_.settings_.message_bytes)});
  }
  done(Code::ok, "");
  respond(kStart);
  write(std::move(response));
  finish({{"grpc-status", "0"}, {"x-request-id", request_id_}});
}

void Call::fail(const Failure& failure) {
  if (!open() || state_ == State::over) return;
  if (state_ == State::in_python) {  // which ends the call with this failure
    ended_ = told_end_ = true;
    Event event(Event::Kind::broken, number_);
    event.code = failure.code;
    event.problem = failure.message;
    return front_.push(std::move(event));
  }
  done(failure.code, failure.message);
  auto trailers = status_trailers(int(failure.code), failure.message, status_details(failure), request_id_);
  trailers.insert(trailers.begin(), kStart.begin(), kStart.end());
  respond_only(trailers);
}

void Call::send(std::string message) {
  if (!open() || state_ == State::over) return;
  if (!started_reply_) respond(kStart);
  started_reply_ = true;
  write(std::move(message));
  if (unsent() <= kLowWater) on_sent();
}

void Call::end(int code, std::string_view message, std::string_view details) {
  if (!open() || state_ == State::over) return;
  state_ = State::over;
  front_.in_python_.erase(number_);
  auto trailers = status_trailers(code, message, details, request_id_);
  if (started_reply_) return finish(std::move(trailers));
  trailers.insert(trailers.begin(), kStart.begin(), kStart.end());
  respond_only(trailers);
}

// Counts and logs an inference that ends here.
void Call::done(Code code, const std::string& problem) {
  bool inferred = inference_ != nullptr || refused_;
  clear_timer();
  if (stop_waiting()) front_.let_in();
  if (state_ == State::in_python) front_.in_python_.erase(number_);
  state_ = State::over;
  lease_.reset();
  if (!inferred) return;
  double seconds = monotonic_seconds() - started_;
  front_.count(code, seconds);
  if (code == Code::ok) return;
  Event event(Event::Kind::failed);
  event.code = code;
  event.problem = problem;
  event.seconds = seconds;
  event.model = model_;
  const std::vector<std::shared_ptr<Run>> none;
  const auto& runs = inference_ ? inference_->runs : none;
  if (!runs.empty()) event.queue_seconds = runs.front()->started - inference_->enqueued;
  for (const auto& run : runs) event.inference_seconds += std::min(run->ended.load(), monotonic_seconds()) - run->started;
  if (!runs.empty()) event.batch_size = runs.back()->rows;
  event.request_id = request_id_;
  event.peer = connection().peer();
  event.client = client_;
  front_.push(std::move(event));
}

void Call::on_closed() {
  auto kept = self();
  clear_timer();
  if (state_ == State::inferring) {
    bool was_late = monotonic_seconds() >= deadline_;
    auto inference = inference_;
    done(was_late ? Code::deadline_exceeded : Code::cancelled, was_late ? "the deadline passed" : "the caller went away");
    inference->queue->abandon(inference);
  } else if (state_ == State::in_python) {
    front_.in_python_.erase(number_);
    front_.push(Event(Event::Kind::cancelled, number_));
    if (number_ > front_.taken_) {
      front_.lingering_.emplace_back(number_, connection().lingering());
      ++*connection().lingering();
      front_.working_++;  // one more, until Python has taken it
      front_.lingers_ = true;
    }
  }
  if (stop_waiting()) front_.let_in();
  state_ = State::over;
  if (counted_) {
    front_.active_--;
    front_.finished_++;
  }
  if (working_) front_.working_--;
  counted_ = working_ = false;
  if (inference_) front_.inferring_--;
  inference_.reset();
  lease_.reset();
  if (reserved_) front_.release(reserved_);
  reserved_ = 0;
}

}  // namespace lectern
