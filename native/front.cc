#include "front.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "call.h"

namespace lectern {
namespace {

// Failed inferences that Python logs at once: each takes some 0.1 ms of its event loop, and they come far faster than that.
constexpr size_t kLoggedFailures = 64;

}  // namespace

Front::Front(FrontSettings settings)
    : settings_(std::move(settings)),
      quota_(std::make_shared<Quota>(settings_.clients)),
      routes_(std::make_shared<Routes>()),
      access_(std::make_shared<AccessTable>()),
      event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      server_(settings_.http, [this] { return std::make_shared<Call>(*this); }, [this] { end_of_turn(); }) {
  if (event_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  counters_.seconds.resize(settings_.seconds_bounds.size() + 1);
}

Front::~Front() {
  stop();
  ::close(event_fd_);
}

void Front::add_method(Method method) {
  method_of_path_.emplace(method.path, methods_.size());
  methods_.push_back(std::move(method));
}

void Front::start() {
  thread_ = std::thread([this] { server_.run(); });
}

void Front::stop() {
  if (!thread_.joinable()) return;
  server_.stop();
  thread_.join();
  server_.stop_listening();
  server_.close_all();
}

void Front::set_routes(Routes routes) {
  std::atomic_store(&routes_, std::shared_ptr<const Routes>(std::make_shared<Routes>(std::move(routes))));
}

void Front::set_access(AccessTable access) {
  std::atomic_store(&access_, std::shared_ptr<const AccessTable>(std::make_shared<AccessTable>(std::move(access))));
}

void Front::post(Outcome outcome) {
  {
    std::lock_guard lock(mutex_);
    outcomes_.push_back(std::move(outcome));
  }
  server_.wake();
}

void Front::post(Command command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  server_.wake();
}

void Front::read(uint64_t call) { post(Command{Command::Kind::read, call, {}, {}, 0}); }

void Front::write(uint64_t call, std::string message) { post(Command{Command::Kind::write, call, std::move(message), {}, 0}); }

void Front::answer(uint64_t call, std::string message) { post(Command{Command::Kind::answer, call, std::move(message), {}, 0}); }

void Front::finish(uint64_t call, int code, std::string message, std::string_view details) {
  post(Command{Command::Kind::finish, call, std::move(message), std::string(details), code});
}

void Front::reset(uint64_t call) { post(Command{Command::Kind::reset, call, {}, {}, 0}); }

void Front::send_elsewhere() { post(Command{Command::Kind::send_elsewhere, 0, {}, {}, 0}); }

void Front::shut_down() { post(Command{Command::Kind::shut_down, 0, {}, {}, 0}); }

void Front::push(Event event) { new_events_.push_back(std::move(event)); }

std::vector<Event> Front::take_events() {
  uint64_t value;
  [[maybe_unused]] ssize_t ignored = ::read(event_fd_, &value, sizeof value);
  std::vector<Event> taken;
  {
    std::lock_guard lock(mutex_);
    events_told_ = false;
    taken.swap(events_);
    failures_ = 0;
    if (uint64_t count = std::exchange(unlogged_, 0)) taken.emplace_back(Event::Kind::unlogged, count);
  }
  for (const auto& event : taken) {
    if (event.kind == Event::Kind::start) taken_ = event.call;
  }
  if (lingers_) server_.wake();
  return taken;
}

RpcCounters Front::take_counters() {
  std::lock_guard lock(mutex_);
  RpcCounters taken;
  taken.seconds.resize(counters_.seconds.size());
  std::swap(taken, counters_);
  return taken;
}

void Front::count(Code code, double seconds) {
  const auto& bounds = settings_.seconds_bounds;
  std::lock_guard lock(mutex_);
  counters_.started++;
  counters_.handled[size_t(code)]++;
  counters_.seconds[size_t(std::lower_bound(bounds.begin(), bounds.end(), seconds) - bounds.begin())]++;
  counters_.seconds_sum += seconds;
}

void Front::end_of_turn() {
  std::vector<Outcome> outcomes;
  std::vector<Command> commands;
  {
    std::lock_guard lock(mutex_);
    outcomes.swap(outcomes_);
    commands.swap(commands_);
  }
  for (auto& [call, response, failure] : outcomes) {
    if (!failure) call->answer(std::move(response));
    else if (call->was_late_) call->fail({Code::deadline_exceeded, "the deadline passed"});
    else call->fail(*failure);
  }
  for (auto& command : commands) obey(command);
  end_lingering();
  for (const auto& queue : touched_) queue->wake();
  touched_.clear();
  if (new_events_.empty()) return;
  bool tell = false;
  {
    std::lock_guard lock(mutex_);
    for (auto& event : new_events_) {
      if (event.kind == Event::Kind::failed && ++failures_ > kLoggedFailures) unlogged_++;
      else events_.push_back(std::move(event));
    }
    tell = !std::exchange(events_told_, true);
  }
  new_events_.clear();
  uint64_t one = 1;
  if (tell) [[maybe_unused]] ssize_t ignored = ::write(event_fd_, &one, sizeof one);
}

// Calls that ended before Python had heard of them, which it has now.
void Front::end_lingering() {
  uint64_t taken = taken_;
  bool any = false;
  for (; !lingering_.empty() && lingering_.front().first <= taken; lingering_.pop_front(), any = true) {
    --*lingering_.front().second;
    working_--;
  }
  lingers_ = !lingering_.empty();
  if (any) server_.resume();
}

void Front::obey(Command& command) {
  if (command.kind == Command::Kind::shut_down) server_.stop_listening();
  if (command.kind >= Command::Kind::send_elsewhere) return server_.shut_down_all();
  auto entry = in_python_.find(command.call);
  if (entry == in_python_.end()) return;
  auto call = entry->second;
  switch (command.kind) {
    case Command::Kind::read: return call->read();
    case Command::Kind::write: return call->send(std::move(command.message));
    case Command::Kind::answer: return call->answer(std::move(command.message));
    case Command::Kind::finish: return call->end(command.code, command.message, command.details);
    case Command::Kind::reset: return call->reset(NGHTTP2_CANCEL);
    case Command::Kind::send_elsewhere:
    case Command::Kind::shut_down: return;
  }
}

bool Front::reserve(const std::shared_ptr<Call>& call, size_t bytes) {
  if (waiting_.empty() && reserved_ + bytes <= budget_) {
    reserved_ += bytes;
    return true;
  }
  call->ticket_ = ++tickets_;
  waiting_.emplace(call->ticket_, call);
  return false;
}

void Front::release(size_t bytes) {
  reserved_ -= bytes;
  let_in();
}

void Front::let_in() {
  while (!waiting_.empty()) {
    auto call = waiting_.begin()->second;
    if (reserved_ + call->waits_for_ > budget_) return;
    reserved_ += call->waits_for_;
    call->stop_waiting();
    call->granted();
    call->take_messages();
  }
}

}  // namespace lectern
