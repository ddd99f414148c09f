#include "waiting.h"

#include <algorithm>

namespace lectern {

int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

size_t Waiting::size() const {
  size_t total = 0;
  for (const auto& level : levels_) total += level.size();
  return total;
}

double Waiting::oldest() const {
  double oldest = kNever;
  for (const auto& level : levels_)
    if (!level.empty()) oldest = std::min(oldest, level.front()->enqueued);
  return oldest;
}

void Waiting::add(RequestPtr request) {
  request->state.turn = request->state.kind.rows;
  request->state.queued = true;
  count(*request, 1);
  levels_[request->state.level].push_back(std::move(request));
}

bool Waiting::remove(const RequestPtr& request) {
  if (!request->state.queued) return false;
  auto& level = levels_[request->state.level];
  level.erase(std::find(level.begin(), level.end(), request));
  request->state.queued = false;
  count(*request, -1);
  return true;
}

// Rows of each priority and kind that are taken before the last row of a request that arrives now.
std::vector<std::pair<const Kind*, int64_t>> Waiting::ahead_of(const Request& request) const {
  const auto& own = request.state;
  const int64_t turns = ceil_div(own.rows, own.kind.rows);
  std::vector<std::pair<const Kind*, int64_t>> ahead;
  for (int level = 0; level < own.level; level++)
    for (const auto& [kind, lane] : lanes_[level]) ahead.emplace_back(&kind, lane.left);
  if (turns == 1) {
    for (const auto& [kind, lane] : lanes_[own.level]) ahead.emplace_back(&kind, lane.turn);
    return ahead;
  }
  Rows rows;
  for (const auto& other : levels_[own.level]) {
    const auto& state = other->state;
    rows[&state.kind] += std::min(state.left(), state.turn + (turns - 1) * state.kind.rows);
  }
  ahead.insert(ahead.end(), rows.begin(), rows.end());
  return ahead;
}

Work Waiting::before(const Request& request) const {
  const auto& kind = request.state.kind;
  int64_t own = request.state.rows;
  Work work{0, 0, 0};
  for (const auto& [other, count] : ahead_of(request)) {
    if (*other == kind) {
      own += count;
    } else {
      work.places += count * other->length;
      work.batches += ceil_div(count, other->rows);
    }
  }
  const int64_t full = (own - 1) / kind.rows;
  work.batches += full;
  work.places += full * kind.rows * kind.length;
  work.last = (own - full * kind.rows) * kind.length;
  return work;
}

Waiting::Rows Waiting::by_kind() const {
  Rows rows;
  for (const auto& lanes : lanes_)
    for (const auto& [kind, lane] : lanes) rows[&kind] += lane.left;
  return rows;
}

Work Waiting::all() const {
  Work work{0, 0, 0};
  for (const auto& [kind, count] : by_kind()) {
    work.batches += ceil_div(count, kind->rows);
    work.places += count * kind->length;
  }
  return work;
}

bool Waiting::has_full_batch() const {
  const Rows rows = by_kind();
  return std::any_of(rows.begin(), rows.end(), [](const auto& entry) { return entry.second >= entry.first->rows; });
}

Taken Waiting::take(double now) {
  Taken taken;
  int64_t room = 1;  // until the first request determines the kind, and so the size of the batch
  for (auto& level : levels_) take_from(level, now, room, taken);
  return taken;
}

void Waiting::take_from(std::deque<RequestPtr>& level, double now, int64_t& room, Taken& taken) {
  std::vector<RequestPtr> passed;
  while (!level.empty() && room) {
    RequestPtr request = std::move(level.front());
    level.pop_front();
    auto& state = request->state;
    count(*request, -1);
    state.queued = false;
    if (state.latest_start <= now && !state.taken) {
      taken.late.push_back(std::move(request));
      continue;
    }
    if (taken.parts.empty()) room = state.kind.rows;
    if (taken.parts.empty() || state.kind == taken.parts[0].request->state.kind) {
      const int64_t rows = std::min({state.left(), state.turn, room});
      taken.parts.push_back({request, state.taken, state.taken + rows});
      room -= rows;
      state.taken += rows;
      state.turn -= rows;
      if (!state.left()) continue;
    }
    state.queued = true;
    if (state.turn) {
      passed.push_back(request);
      count(*request, 1);
    } else {
      state.turn = state.kind.rows;
      count(*request, 1);
      level.push_back(std::move(request));
    }
  }
  level.insert(level.begin(), passed.begin(), passed.end());
}

void Waiting::count(const Request& request, int sign) {
  const auto& state = request.state;
  const int64_t left = state.left();
  auto& lanes = lanes_[state.level];
  const auto lane = lanes.try_emplace(state.kind).first;
  rows_ += sign * left;
  lane->second.left += sign * left;
  lane->second.turn += sign * std::min(left, state.turn);
  if (!lane->second.left) lanes.erase(lane);
}

}  // namespace lectern
