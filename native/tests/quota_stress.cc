// The limits of clients: what is admitted, refused and forgotten at given times, and from many threads at once.
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "../quota.h"

using namespace lectern;

namespace {

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

double retry_after(Quota& quota, const Allowance& allowance, double now) {
  auto [lease, failure] = quota.admit("a", allowance, now);
  check(!lease && failure && failure->code == Code::resource_exhausted, "the client is refused");
  return failure->retry_after;
}

void test_bucket() {
  auto quota = std::make_shared<Quota>(1);
  const Allowance allowance{2, 3, 0};
  for (int i = 0; i < 3; i++) check(quota->admit("a", allowance, 100).first != nullptr, "a full bucket admits its size");
  check(std::abs(retry_after(*quota, allowance, 100) - 0.5) < 1e-9, "an empty bucket says when it has one more");
  check(retry_after(*quota, allowance, 50) >= 0.5, "a clock that goes back gives nothing");
  check(quota->admit("a", allowance, 100.5).first != nullptr, "time fills the bucket");
  for (int i = 0; i < 3; i++) check(quota->admit("a", allowance, 1000).first != nullptr, "a pause fills it");
  retry_after(*quota, allowance, 1000);
}

void test_waiting_as_told() {
  auto quota = std::make_shared<Quota>(1);
  const Allowance allowance{7, 1, 0};
  double now = 1e6;
  for (int i = 0; i < 1000; i++) {
    check(quota->admit("a", allowance, now).first != nullptr, "whoever waits as told is let in");
    now += retry_after(*quota, allowance, now);
  }
}

void test_giving_back() {
  auto quota = std::make_shared<Quota>(1);
  const Allowance allowance{1, 1, 1};
  auto lease = quota->admit("a", allowance, 0).first;
  lease->give_back();
  check(!lease->take(0), "what was given back may be taken");
  check(lease->take(0).has_value(), "once");
  lease.reset();
  retry_after(*quota, allowance, 0);
  check(quota->admit("a", allowance, 1).first != nullptr, "a call refused for its rate is not under way");
}

void test_forgetting() {
  auto quota = std::make_shared<Quota>(3);
  const Allowance allowance{0.001, 2, 1};
  auto busy = quota->admit("a", allowance, 0).first;
  for (int i = 0; i < 100; i++) check(quota->admit("quiet " + std::to_string(i), allowance, 0).first != nullptr, "a new client");
  check(quota->clients() == 3, "no more are remembered than may be");
  retry_after(*quota, allowance, 0);
  busy.reset();
  check(quota->admit("a", allowance, 0).first != nullptr, "one call ended");
  check(retry_after(*quota, allowance, 0) > 100, "a client that is busy is not forgotten");
  check(!quota->admit("b", {}, 0).first && quota->clients() == 3, "who has no limits is not remembered");
}

void test_threads() {
  constexpr int kThreads = 4, kCalls = 50'000, kClients = 5, kMost = 2;
  auto quota = std::make_shared<Quota>(kClients);
  const Allowance allowance{0, 0, kMost};
  std::array<std::atomic<int>, kClients> active{};
  std::atomic<int> admitted{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; thread++) {
    threads.emplace_back([&, thread] {
      for (int call = 0; call < kCalls; call++) {
        const int client = (call + thread) % kClients;
        auto lease = quota->admit(std::to_string(client), allowance, call).first;
        if (!lease) continue;
        check(++active[client] <= kMost, "no client has more calls under way than it may");
        admitted++;
        active[client]--;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  check(admitted > kCalls, "most are admitted");
  std::vector<std::unique_ptr<Quota::Lease>> leases;
  for (int i = 0; i < kMost; i++) leases.push_back(quota->admit("0", allowance, 0).first);
  check(leases.back() != nullptr, "all calls have ended");
}

}  // namespace

int main() {
  test_bucket();
  test_waiting_as_told();
  test_giving_back();
  test_forgetting();
  test_threads();
}
