// Many threads submit, abandon, take, answer and fail at once, and every request is finished exactly once with its own
// rows. Built with sanitizers: cmake -DSANITIZE=thread or address,undefined.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "../queue.h"

using namespace lectern;

namespace {

constexpr int kCallers = 4, kInstances = 3, kMostRows = 20;
constexpr int64_t kWidths[] = {1, 2, 3, 7};
constexpr float kBad = -1;

std::atomic<uint64_t> finished{0}, answered{0}, terminated{0};

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

// Rows of `width` equal numbers; doubled by a run, and refused if one is bad.
class Caller : public Request {
 public:
  Caller(int64_t rows, int64_t width, float first, bool bad) : rows_(rows), width_(width), bad_(bad) {
    for (int64_t row = 0; row < rows; row++) values_.insert(values_.end(), width, bad ? kBad : first + row);
    inputs.push_back({reinterpret_cast<const char*>(values_.data()), {rows, width}});
  }
  ~Caller() override { check(!accepted || times_ == 1, "each accepted request is finished"); }

  void finished(const Failure* failure) override {
    check(++times_ == 1, "a request is finished once");
    ::finished++;
    if (failure) {
      check(!failure->message.empty(), "a failure says why");
      return;
    }
    answered++;
    check(!bad_, "a bad request is not answered");
    check(outputs.size() == 1 && outputs[0].shape == Shape{rows_, width_}, "an answer has the shape of its request");
    const auto* own = reinterpret_cast<const float*>(outputs[0].data.get());
    for (size_t i = 0; i < values_.size(); i++) check(own[i] == 2 * values_[i], "an answer belongs to its request");
  }

  std::atomic<bool> accepted{false};

 private:
  const int64_t rows_, width_;
  const bool bad_;
  std::vector<float> values_;
  std::atomic<int> times_{0};
};

GraphConfig config(bool padded, double delay) {
  const float fill = 0;
  TensorSpec x{"x", "FP32", sizeof(float), {-1}, 0}, y = x;
  x.fill.assign(reinterpret_cast<const char*>(&fill), sizeof fill);
  std::optional<Padding> padding;
  if (padded) padding = Padding{1, 4, 24};
  return {"stress", 1, true, 8, delay, {{200, kNever, false}, {200, 0.05, true}}, 2, kInstances, padding, {x}, {y}};
}

void run_batch(std::unique_ptr<Batch> batch) {
  const auto inputs = batch->begin(monotonic_seconds());
  if (inputs.empty()) return;
  const auto& shape = inputs[0].shape;
  const auto* in = reinterpret_cast<const float*>(inputs[0].data.get());
  check(reinterpret_cast<uintptr_t>(in) % 64 == 0, "inputs are aligned");
  std::vector<float> out;
  for (int64_t i = 0; i < shape[0] * shape[1]; i++) out.push_back(2 * in[i]);
  if (std::find(in, in + out.size(), kBad) == in + out.size()) {
    batch->answer({{reinterpret_cast<const char*>(out.data()), shape}}, monotonic_seconds());
    return;
  }
  for (auto& half : batch->fail({Code::invalid_argument, "bad"}, monotonic_seconds())) run_batch(std::move(half));
}

uint64_t call(const std::shared_ptr<Queue>& queue, unsigned seed, double until) {
  std::mt19937 random(seed);
  uint64_t accepted = 0;
  std::vector<std::shared_ptr<Caller>> own;
  while (monotonic_seconds() < until) {
    const bool large = random() % 8 == 0;
    auto request = std::make_shared<Caller>(1 + random() % (large ? kMostRows : 3), kWidths[random() % 4],
                                            static_cast<float>(random() % 1000), random() % 32 == 0);
    request->priority = static_cast<int>(random() % 3);
    request->counted = random() % 2;
    if (random() % 4 == 0) request->deadline = monotonic_seconds() + 0.001 * (random() % 20);
    request->accepted = true;
    if (queue->submit(request, monotonic_seconds()))
      request->accepted = false;
    else
      accepted++, own.push_back(std::move(request));
    if (random() % 4 == 0) queue->wake();
    if (own.size() > 20) {
      if (random() % 2) queue->abandon(own[random() % own.size()]);
      own.erase(own.begin(), own.begin() + 10);
    }
    if (random() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
  }
  queue->wake();
  return accepted;
}

void stress(bool padded, double delay, double seconds) {
  finished = answered = terminated = 0;
  auto queue = std::make_shared<Queue>(config(padded, delay), 0.0, std::vector<double>{0.001, 0.01, 0.1},
                                       [](uint64_t) { terminated++; });
  const double until = monotonic_seconds() + seconds;
  std::atomic<uint64_t> accepted{0};
  std::vector<std::thread> callers, instances;
  for (int i = 0; i < kInstances; i++)
    instances.emplace_back([&queue, i] {
      std::mt19937 random(i);
      while (auto batch = queue->next())
        if (random() % 256) run_batch(std::move(batch));  // else it is dropped
    });
  for (int i = 0; i < kCallers; i++) callers.emplace_back([&, i] { accepted += call(queue, 100 + i, until); });
  uint64_t waits = 0, rejected = 0;
  while (monotonic_seconds() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    queue->seconds(1, 1);
    if (const auto counters = queue->drain_counters()) {
      for (uint64_t count : counters->waits) waits += count;
      for (uint64_t count : counters->rejected) rejected += count;
    }
  }
  for (auto& thread : callers) thread.join();
  queue->close();
  for (auto& thread : instances) thread.join();
  check(finished == accepted, "as many requests are finished as were accepted");
  check(answered > 0 && waits > 0 && rejected > 0, "requests are answered, wait and are rejected");
  std::printf("padded %d, delay %g s: %llu accepted, %llu answered, %llu rejected, %llu runs ended\n", padded, delay,
              static_cast<unsigned long long>(accepted), static_cast<unsigned long long>(answered),
              static_cast<unsigned long long>(rejected), static_cast<unsigned long long>(terminated));
}

// Those who wait when a queue that no thread works on goes away are told.
void abandon_queue() {
  finished = 0;
  auto queue = std::make_shared<Queue>(config(false, 0));
  for (int i = 0; i < 5; i++) {
    auto request = std::make_shared<Caller>(1 + 10 * i, 2, 1.0F, false);
    check(!queue->submit(request, monotonic_seconds()), "the queue has room");
    request->accepted = true;
  }
  { const auto batch = queue->take(monotonic_seconds()); }
  queue.reset();
  check(finished == 5, "requests of a queue that goes away are finished");
}

}  // namespace

// Argument: seconds of each of the three mixes.
int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 2;
  stress(false, 0, seconds);
  stress(true, 0, seconds);
  stress(true, 0.002, seconds);
  abandon_queue();
}
