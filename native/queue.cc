#include "queue.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

namespace lectern {

namespace {

constexpr double kRetryAfterSeconds = 0.1;
constexpr double kCaution = 1.5;  // estimates of waits are multiplied by this, as in scheduler.py
constexpr double kWorthWakingSeconds = 0.001;

std::atomic<uint64_t> batches_made{0};

double epoch_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Queue::Queue(GraphConfig config, double seconds_per_place, std::vector<double> wait_bounds, Terminate terminate)
    : config_(std::make_shared<const GraphConfig>(std::move(config))),
      wait_bounds_(std::move(wait_bounds)),
      terminate_(std::move(terminate)),
      waiting_(config_->queues.size()),
      cost_(seconds_per_place) {
  counters_.waits.resize(wait_bounds_.size() + 1);
}

// No batch runs, for each refers to the queue.
Queue::~Queue() {
  Endings endings;
  while (waiting_.rows())
    for (auto& part : waiting_.take(-kNever).parts)
      if (!part.done()) end(part.request, unloading(), monotonic_seconds(), endings);
  tell(endings);
}

std::optional<Failure> Queue::submit(RequestPtr request, double now) {
  prepare(*request, now);
  if (request->state.rows < 1) return Failure{Code::invalid_argument, "inputs: hold no row"};
  std::lock_guard lock(mutex_);
  std::optional<Failure> refused = refusal(*request);
  if (refused)
    count_end(*request, true, now);
  else
    waiting_.add(std::move(request));
  counted_ = true;
  return refused;
}

void Queue::prepare(Request& request, double now) const {
  auto& state = request.state;
  const int known = request.priority >= 1 && request.priority <= static_cast<int>(config_->queues.size());
  state.level = (known ? request.priority : config_->default_priority) - 1;
  const auto& policy = config_->queues[state.level];
  const bool chosen = request.max_wait > 0 && policy.may_override;
  state.latest_start = std::min(request.deadline, now + (chosen ? std::min(request.max_wait, policy.timeout) : policy.timeout));
  state.rows = config_->batched ? request.inputs.at(0).shape.at(0) : 1;
  state.kind = kind_of(*config_, request.inputs);
  state.length = length_of(*config_, request.inputs);
  request.enqueued = now;
}

std::optional<Failure> Queue::refusal(const Request& request) {
  if (closed_) return unloading();
  const size_t waiting = waiting_.size(request.state.level), most = config_->queues[request.state.level].max_size;
  if (waiting >= most) {
    reject(Reason::queue_full);
    return Failure{Code::resource_exhausted,
                   "model " + config_->model + ": " + std::to_string(waiting) + " requests are waiting, the queue holds " +
                       std::to_string(most) + "; try again later",
                   kRetryAfterSeconds};
  }
  const bool hurried = request.state.latest_start < kNever;
  return hurried && (!running_.empty() || waiting_.rows()) ? check_backlog(request) : std::nullopt;
}

// Refuses a request now if its answer would come after its deadline.
std::optional<Failure> Queue::check_backlog(const Request& request) {
  const double now = request.enqueued;
  const Work work = waiting_.before(request);
  const double turn = (remaining(now) + cost_.seconds(work.batches, work.places)) / config_->instances;
  const double answer = turn + cost_.seconds(1, work.last);
  if (now + kCaution * turn <= request.state.latest_start && now + kCaution * answer <= request.deadline) return {};
  reject(Reason::backlog);
  const int64_t ahead = work.batches + static_cast<int64_t>(running_.size());
  return Failure{Code::resource_exhausted,
                 "model " + config_->model + ": " + std::to_string(ahead) +
                     " batches are ahead, which take longer than the deadline allows; try again later",
                 answer};
}

// Seconds of compute until the current runs are done.
double Queue::remaining(double now) const {
  double seconds = 0;
  for (const Batch* batch : running_)
    seconds += std::max(0.0, cost_.seconds(1, batch->places()) - std::max(0.0, now - batch->started_));
  return seconds;
}

// Seconds left to wait for a full batch; the oldest request waits at most `max_queue_delay`.
double Queue::delay(double now) const {
  if (!config_->max_queue_delay || closed_ || waiting_.has_full_batch()) return 0;
  return waiting_.oldest() + config_->max_queue_delay - now;
}

void Queue::wake() {
  std::lock_guard lock(mutex_);
  wake_one(monotonic_seconds());
}

// Wakes an idle instance, unless the running ones will be done before it could help.
void Queue::wake_one(double now) {
  if (!running_.empty()) {
    const Work work = waiting_.all();
    if (remaining(now) + cost_.seconds(work.batches, work.places) < kWorthWakingSeconds) return;
  }
  changed_.notify_one();
}

void Queue::abandon(const RequestPtr& request) {
  Endings endings;
  {
    std::lock_guard lock(mutex_);
    if (request->state.done) return;
    if (request->state.queued) reject(Reason::cancelled);
    end(request, Failure{Code::cancelled, "the caller went away"}, monotonic_seconds(), endings);
  }
  tell(endings);
}

std::unique_ptr<Batch> Queue::take(double now) {
  Endings endings;
  std::unique_ptr<Batch> batch;
  {
    std::lock_guard lock(mutex_);
    batch = take_locked(now, endings);
  }
  tell(endings);
  return batch;
}

std::unique_ptr<Batch> Queue::next() {
  std::unique_lock lock(mutex_);
  while (true) {
    Endings endings;
    auto batch = take_locked(monotonic_seconds(), endings);
    if (batch || !endings.empty()) {
      lock.unlock();
      tell(endings);
      if (batch) return batch;
      lock.lock();
    } else if (waiting_.rows()) {
      changed_.wait_for(lock, std::chrono::duration<double>(std::max(0.0, delay(monotonic_seconds()))));
    } else if (closed_) {
      return nullptr;
    } else {
      changed_.wait(lock);
    }
  }
}

std::unique_ptr<Batch> Queue::take_locked(double now, Endings& endings) {
  if (!waiting_.rows() || delay(now) > 0) return nullptr;
  Taken taken = waiting_.take(now);
  counted_ = true;
  if (!taken.late.empty()) reject(Reason::deadline, taken.late.size());
  for (auto& request : taken.late)
    end(std::move(request), Failure{Code::deadline_exceeded, "the request timed out in the queue"}, now, endings);
  if (taken.parts.empty()) return nullptr;
  for (const auto& part : taken.parts) count_wait(now - part.request->enqueued);
  auto batch = std::make_unique<Batch>(shared_from_this(), std::move(taken.parts), now);
  running_.insert(batch.get());
  if (waiting_.rows()) wake_one(now);
  return batch;
}

void Queue::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

// Ends a request for which that has not happened.
void Queue::end(RequestPtr request, std::optional<Failure> failure, double now, Endings& endings) {
  request->state.done = true;
  count_end(*request, failure.has_value(), now);
  if (failure) {
    waiting_.remove(request);
    terminate_abandoned();
  }
  endings.push_back({std::move(request), std::move(failure)});
}

void Queue::terminate_abandoned() {
  for (Batch* batch : running_)
    if (!batch->terminated_ && batch->nobody_waits()) {
      batch->terminated_ = true;
      terminate_(batch->number);
    }
}

void Queue::tell(const Endings& endings) {
  for (const auto& ending : endings) ending.request->finished(ending.failure ? &*ending.failure : nullptr);
}

double Queue::seconds(int64_t batches, int64_t places) const {
  std::lock_guard lock(mutex_);
  return cost_.seconds(batches, places);
}

std::optional<Counters> Queue::drain_counters() {
  std::lock_guard lock(mutex_);
  if (!counted_) return std::nullopt;
  counted_ = false;
  Counters fresh;
  fresh.waits.resize(counters_.waits.size());
  counters_.depth = waiting_.size();
  return std::exchange(counters_, std::move(fresh));
}

void Queue::count_end(const Request& request, bool failed, double now) {
  counted_ = true;
  if (!request.counted) return;
  auto& total = failed ? counters_.failures : counters_.successes;
  total.count++;
  total.seconds += now - request.enqueued;
  counters_.last_request = epoch_seconds();
}

void Queue::count_wait(double seconds) {
  const auto bound = std::lower_bound(wait_bounds_.begin(), wait_bounds_.end(), seconds);
  counters_.waits[bound - wait_bounds_.begin()]++;
  counters_.wait_seconds += seconds;
}

void Queue::reject(Reason reason, size_t count) {
  counted_ = true;
  counters_.rejected[static_cast<size_t>(reason)] += count;
}

Failure Queue::unloading() const {
  return {Code::unavailable, "model " + config_->model + " is being unloaded", kRetryAfterSeconds};
}

Batch::Batch(std::shared_ptr<Queue> queue, std::vector<Part> parts, double started)
    : number(++batches_made), queue_(std::move(queue)), parts_(std::move(parts)), started_(started) {}

Batch::~Batch() {
  if (retired_) return;
  const Failure dropped{Code::internal, "model " + queue_->config_->model + " failed on this input"};
  Queue::Endings endings;
  {
    std::lock_guard lock(queue_->mutex_);
    const double now = monotonic_seconds();
    retire(now);
    for (const auto& part : parts_)
      if (!part.done()) queue_->end(part.request, dropped, now, endings);
  }
  Queue::tell(endings);
}

std::vector<Buffer> Batch::begin(double now) {
  {
    std::lock_guard lock(queue_->mutex_);
    parts_.erase(std::remove_if(parts_.begin(), parts_.end(), [](const Part& part) { return part.done(); }), parts_.end());
    if (parts_.empty()) {
      retire(now);
      return {};
    }
    started_ = now;
    run_ = std::make_shared<Run>(rows(), parts_.size(), now);
    for (const auto& part : parts_) part.request->runs.push_back(run_);
  }
  return joined(queue_->config(), parts_);
}

int64_t Batch::rows() const {
  int64_t rows = 0;
  for (const auto& part : parts_) rows += part.rows();
  return rows;
}

size_t Batch::input_bytes() const {
  size_t bytes = 0;
  for (const auto& part : parts_)
    for (size_t input = 0; input < part.request->inputs.size(); input++)
      bytes += part.request->inputs[input].bytes(queue_->config().inputs[input]) / part.request->state.rows * part.rows();
  return bytes;
}

// The size that determines its cost: rows times the longest length.
int64_t Batch::places() const {
  int64_t longest = 0;
  for (const auto& part : parts_) longest = std::max(longest, part.request->state.length);
  return rows() * longest;
}

bool Batch::abandoned() const {
  std::lock_guard lock(queue_->mutex_);
  return nobody_waits();
}

bool Batch::nobody_waits() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.done(); });
}

void Batch::retire(double now) {
  retired_ = true;
  if (run_) run_->ended = now;
  queue_->running_.erase(this);
}

void Batch::answer(const std::vector<Tensor>& tensors, double now) {
  const Outputs outputs(queue_->config(), tensors, parts_);
  const std::vector<char> wanted = reserve(outputs);
  for (size_t part = 0; part < parts_.size(); part++)
    if (wanted[part]) outputs.copy(part);  // without the lock: other runs of a request copy other rows
  Queue::Endings endings;
  {
    std::lock_guard lock(queue_->mutex_);
    queue_->cost_.observe(static_cast<double>(places()), now - started_);
    retire(now);
    for (auto& part : parts_) {
      if (part.done()) continue;
      auto& state = part.request->state;
      state.answered += part.rows();
      if (state.answered == state.rows) queue_->end(part.request, std::nullopt, now, endings);
    }
  }
  Queue::tell(endings);
}

// Makes the buffers of the requests that somebody still waits for; whether that is so, by part.
std::vector<char> Batch::reserve(const Outputs& outputs) {
  std::lock_guard lock(queue_->mutex_);
  std::vector<char> wanted;
  for (size_t part = 0; part < parts_.size(); part++) {
    wanted.push_back(!parts_[part].done());
    if (wanted.back()) outputs.reserve(part);
  }
  return wanted;
}

std::vector<std::unique_ptr<Batch>> Batch::fail(const Failure& failure, double now) {
  std::vector<std::unique_ptr<Batch>> again;
  Queue::Endings endings;
  {
    std::lock_guard lock(queue_->mutex_);
    retire(now);
    if (nobody_waits())
      queue_->reject(Reason::abandoned, parts_.size());
    else if (parts_.size() > 1)
      again = halves();
    else
      queue_->end(parts_[0].request, failure, now, endings);
  }
  Queue::tell(endings);
  return again;
}

std::vector<std::unique_ptr<Batch>> Batch::halves() {
  const auto middle = parts_.begin() + parts_.size() / 2;
  std::vector<std::unique_ptr<Batch>> halves;
  halves.push_back(std::make_unique<Batch>(queue_, std::vector<Part>(parts_.begin(), middle), kNever));
  halves.push_back(std::make_unique<Batch>(queue_, std::vector<Part>(middle, parts_.end()), kNever));
  for (const auto& half : halves) queue_->running_.insert(half.get());
  return halves;
}

}  // namespace lectern
