// The waiting requests of one graph, and which of them form the next batch. As services/runtime/queue.py.
#pragma once

#include <deque>
#include <map>
#include <utility>

#include "request.h"

namespace lectern {

// What runs before the last batch of a request, in batches and places (rows times length), and the places of that batch.
struct Work {
  int64_t batches, places, last;
};

struct Taken {
  std::vector<Part> parts;
  std::vector<RequestPtr> late;  // their time has passed
};

// Requests by priority, each level first in, first out. In its turn a request may fill one batch of its kind; for its
// next turn it goes to the back of its level. Not thread-safe.
class Waiting {
 public:
  explicit Waiting(size_t levels) : levels_(levels), lanes_(levels) {}

  size_t size() const;
  size_t size(int level) const { return levels_[level].size(); }
  int64_t rows() const { return rows_; }  // that no run has taken yet
  double oldest() const;                  // when the request that has waited longest arrived; kNever if none waits
  void add(RequestPtr request);
  bool remove(const RequestPtr& request);  // whether it was queued
  Work before(const Request& request) const;
  Work all() const;  // of everything that waits; no `last`
  bool has_full_batch() const;
  // The first request in time determines the kind; rows of others of that kind fill the batch.
  Taken take(double now);

 private:
  // Totals over the waiting requests of one priority and kind: rows left, and those of the requests' current turns.
  struct Lane {
    int64_t left = 0, turn = 0;
  };
  struct ByValue {
    bool operator()(const Kind* a, const Kind* b) const { return *a < *b; }
  };
  using Rows = std::map<const Kind*, int64_t, ByValue>;

  Rows by_kind() const;
  std::vector<std::pair<const Kind*, int64_t>> ahead_of(const Request& request) const;
  void take_from(std::deque<RequestPtr>& level, double now, int64_t& room, Taken& taken);
  void count(const Request& request, int sign);

  std::vector<std::deque<RequestPtr>> levels_;
  std::vector<std::map<Kind, Lane>> lanes_;
  int64_t rows_ = 0;
};

int64_t ceil_div(int64_t count, int64_t size);

}  // namespace lectern
