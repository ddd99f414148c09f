// What clients may ask: a token bucket for the rate, and a count of RPCs under way; services/server/quota.py in C++, so
// that RPCs answered here and in Python count against the same client. Any thread may call everything.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "request.h"

namespace lectern {

// The limits of a client; 0 = no limit. `size` is the capacity of the bucket.
struct Allowance {
  double rate = 0, size = 0;
  int64_t concurrency = 0;

  bool limits() const { return rate > 0 || concurrency > 0; }
};

// Owned by shared pointers, of which each lease has one.
class Quota : public std::enable_shared_from_this<Quota> {
 public:
  // One admitted RPC of a client, until it is destroyed.
  class Lease {
   public:
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    std::optional<Failure> take(double now);  // counts one request against the rate
    void give_back();                         // the request that `admit` counted was none

   private:
    friend class Quota;
    struct Usage {
      double left, updated;
      int64_t active = 0;
    };
    Lease(std::shared_ptr<Quota> quota, std::string client, std::shared_ptr<Usage> usage, Allowance allowance);

    std::shared_ptr<Quota> quota_;
    std::string client_;
    std::shared_ptr<Usage> usage_;
    Allowance allowance_;
    bool counts_ = false;
  };

  // Beyond so many clients, the one that has been idle longest is forgotten.
  explicit Quota(size_t clients) : clients_(clients) {}

  // Counts one RPC; the lease is null if nothing limits the client, or if it is refused.
  std::pair<std::unique_ptr<Lease>, std::optional<Failure>> admit(const std::string& client, const Allowance& allowance, double now);
  size_t clients() const;

 private:
  using Entry = std::pair<std::string, std::shared_ptr<Lease::Usage>>;
  std::shared_ptr<Lease::Usage> usage(const std::string& client, double size, double now);
  void forget_one();

  const size_t clients_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the one that came last at the end
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
};

}  // namespace lectern
