// The queue of one graph: admission, priorities, deadlines and batches. The same rules as services/runtime/queue.py and
// scheduler.py, which say why each is so. Knows neither Python nor HTTP.
#pragma once

#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>

#include "batches.h"
#include "cost.h"
#include "request.h"
#include "waiting.h"

namespace lectern {

// Why a request did not run.
enum class Reason { queue_full, backlog, deadline, cancelled, abandoned };
constexpr std::array<const char*, 5> kReasons{"queue_full", "backlog", "deadline", "cancelled", "abandoned"};

// What happened since the counters were last read.
struct Counters {
  struct Total {
    uint64_t count = 0;
    double seconds = 0;
  };
  std::vector<uint64_t> waits;  // in the queue, by bucket of seconds; the last one has no bound
  double wait_seconds = 0;
  std::array<uint64_t, kReasons.size()> rejected{};
  Total successes, failures;  // from arrival to end; of requests that the queue counts
  double last_request = 0;    // when the last of those ended, in seconds since the epoch; 0 = there was none
  size_t depth = 0;           // requests that wait now
};

class Batch;

class Queue : public std::enable_shared_from_this<Queue> {
 public:
  using Terminate = std::function<void(uint64_t number)>;

  // seconds_per_place: of a run, measured before. wait_bounds: upper bounds of the buckets of seconds in the queue.
  // terminate: told the number of each running batch that nobody waits for any more, once, under the queue's lock: must
  // not block.
  explicit Queue(GraphConfig config, double seconds_per_place = 0, std::vector<double> wait_bounds = {},
                 Terminate terminate = [](uint64_t) {});
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Accepts the request, or says why not. Does not wake an instance: call `wake` once after a round of submits.
  std::optional<Failure> submit(RequestPtr request, double now);
  void wake();
  // The request's caller went away: removes it from the queue, or ends a run that nobody waits for any more. It is
  // finished as cancelled, unless it has been finished.
  void abandon(const RequestPtr& request);
  // The next batch without waiting; null if there is none yet.
  std::unique_ptr<Batch> take(double now);
  // Waits for the next batch; null once the queue is closed and empty.
  std::unique_ptr<Batch> next();
  // Takes no more requests; those that wait still run.
  void close();

  const GraphConfig& config() const { return *config_; }
  std::shared_ptr<const GraphConfig> shared_config() const { return config_; }
  double seconds(int64_t batches, int64_t places) const;  // estimate of so many runs
  std::optional<Counters> drain_counters();               // nothing if nothing happened

 private:
  friend class Batch;

  // Requests that end, to be told without the lock.
  struct Ending {
    RequestPtr request;
    std::optional<Failure> failure;
  };
  using Endings = std::vector<Ending>;
  static void tell(const Endings& endings);

  void prepare(Request& request, double now) const;
  std::optional<Failure> refusal(const Request& request);
  std::optional<Failure> check_backlog(const Request& request);
  double remaining(double now) const;
  double delay(double now) const;
  void wake_one(double now);
  std::unique_ptr<Batch> take_locked(double now, Endings& endings);
  void end(RequestPtr request, std::optional<Failure> failure, double now, Endings& endings);
  void terminate_abandoned();
  void count_end(const Request& request, bool failed, double now);
  void count_wait(double seconds);
  void reject(Reason reason, size_t count = 1);
  Failure unloading() const;

  const std::shared_ptr<const GraphConfig> config_;
  const std::vector<double> wait_bounds_;
  const Terminate terminate_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Waiting waiting_;
  RunCost cost_;
  std::set<Batch*> running_;
  Counters counters_;
  bool counted_ = false, closed_ = false;
};

// Parts of requests that run together. A batch that is dropped fails its requests. Used by one thread at a time.
class Batch {
 public:
  Batch(std::shared_ptr<Queue> queue, std::vector<Part> parts, double started);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  const uint64_t number;  // of this process

  // The run starts: the joined inputs of the requests that somebody still waits for; empty if nobody does, and then the
  // batch is over. May throw std::bad_alloc.
  std::vector<Buffer> begin(double now);
  int64_t rows() const;
  size_t input_bytes() const;  // of the inputs without padding
  bool abandoned() const;  // whether no caller waits for any part of it
  // The run's outputs by position, each with the batch first: parts them, and finishes the requests that are complete.
  // Throws std::invalid_argument if they do not fit the inputs; then call `fail`.
  void answer(const std::vector<Tensor>& outputs, double now);
  // Fails the one request that it has, or returns the two halves to run again, so that one caller's input does not fail
  // its neighbours. Nothing if nobody waits.
  std::vector<std::unique_ptr<Batch>> fail(const Failure& failure, double now);
  const Queue& queue() const { return *queue_; }

 private:
  friend class Queue;

  int64_t places() const;
  bool nobody_waits() const;
  void retire(double now);
  std::vector<char> reserve(const Outputs& outputs);
  std::vector<std::unique_ptr<Batch>> halves();

  const std::shared_ptr<Queue> queue_;
  // Under the queue's lock.
  std::vector<Part> parts_;
  double started_;
  std::shared_ptr<Run> run_;
  bool terminated_ = false, retired_ = false;
};

}  // namespace lectern
