// What a graph's queue is told and what it tells: configuration, tensors, requests and failures.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "clock.h"

namespace lectern {

using Shape = std::vector<int64_t>;

constexpr double kNever = std::numeric_limits<double>::infinity();

// gRPC status codes (grpc.io/docs/guides/status-codes) that the native front gives itself.
enum class Code { ok = 0, cancelled = 1, invalid_argument = 3, deadline_exceeded = 4, not_found = 5, resource_exhausted = 8,
                  unimplemented = 12, internal = 13, unavailable = 14, unauthenticated = 16 };

struct Failure {
  Code code;
  std::string message;
  double retry_after = -1;  // seconds; negative = none
  std::string status{};     // a serialised google.rpc.Status, if it says more than the above
};

// One input or output of a graph. `shape` is that of one item; -1 = any length up to `longest`.
struct TensorSpec {
  std::string name, datatype;  // datatype of the Open Inference Protocol
  size_t item_bytes;           // of one number
  Shape shape;
  int64_t longest;
  std::string fill{};  // one number of padding, in this datatype; of inputs only

  bool variable() const;  // whether an axis may have any length
};

struct QueuePolicy {
  size_t max_size;
  double timeout;  // seconds
  bool may_override;
};

struct Padding {
  size_t axis;  // of the inputs; the batch is axis 0
  int64_t multiple, budget;
};

struct GraphConfig {
  std::string model;
  int64_t version;
  bool batched;  // whether the tensors have a batch axis
  int64_t rows;  // most in one batch
  double max_queue_delay;
  std::vector<QueuePolicy> queues;  // by priority, the first priority first
  int default_priority;             // 1 = first
  int instances;
  std::optional<Padding> padding;
  std::vector<TensorSpec> inputs, outputs;
};

// C-contiguous; `shape` has the batch axis if the graph has one. Does not own its data.
struct Tensor {
  const char* data;
  Shape shape;

  size_t bytes(const TensorSpec& spec) const;
};

// Owned, C-contiguous, aligned to 64 bytes, not initialised.
struct Buffer {
  Buffer() = default;
  Buffer(Shape shape, size_t item_bytes);  // throws std::bad_alloc

  Shape shape;
  std::unique_ptr<char, void (*)(void*)> data{nullptr, nullptr};
  size_t bytes = 0;
};

// What requests must have in common to run together: shapes without the batch axis, the padded axis rounded up.
struct Kind {
  std::vector<Shape> shapes;
  int64_t rows, length;  // most rows in one batch; length of the padded axis, rounded up; 1 = none is padded

  bool operator==(const Kind& other) const {
    return length == other.length && rows == other.rows && shapes == other.shapes;
  }
  bool operator<(const Kind& other) const { return length != other.length ? length < other.length : shapes < other.shapes; }
};

// One run, as callers are told of it.
struct Run {
  Run(int64_t rows, int64_t requests, double started);

  const int64_t rows, requests;
  const double started;
  const uint64_t number;              // random
  std::atomic<double> ended{kNever};  // a caller who went away may look while it is under way
};

// One caller's tensors. The queue calls `finished` exactly once for each request that it accepted, without its lock held,
// on any thread; nothing of a request may be touched by others between submit and finished. Its memory must last until
// the last reference is gone: a run may still read the inputs of a caller who went away.
class Request {
 public:
  virtual ~Request() = default;
  // `failure` is null if `outputs` holds the answer (by position of the config's outputs). Must neither throw nor block.
  virtual void finished(const Failure* failure) = 0;

  std::vector<Tensor> inputs;
  double deadline = kNever;  // the caller's, in monotonic seconds
  int priority = 0;          // 1 = first; 0 or unknown = the config's default
  double max_wait = 0;       // seconds in the queue, if the config lets callers choose; 0 = the config's
  bool counted = true;       // in the graph's request seconds; not if the caller counts it

  std::vector<Buffer> outputs;
  std::vector<std::shared_ptr<Run>> runs;
  double enqueued = 0;

  // The queue's own, under its lock.
  struct State {
    Kind kind;
    int64_t length = 1, rows = 1;  // of the padded axis; of each tensor
    double latest_start = kNever;
    int level = 0;
    int64_t taken = 0;     // rows that runs have taken
    int64_t turn = 0;      // rows that it may still take before the other requests have their turn
    int64_t answered = 0;  // rows whose outputs have arrived
    bool queued = false, done = false;

    int64_t left() const { return rows - taken; }
  } state;
};

using RequestPtr = std::shared_ptr<Request>;

// Rows `start` to `stop` of a request: all of them, unless it is larger than a batch.
struct Part {
  RequestPtr request;
  int64_t start, stop;

  int64_t rows() const { return stop - start; }
  bool done() const { return request->state.done; }
};

}  // namespace lectern
