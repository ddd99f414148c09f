// Estimates how long a run of a graph takes, from the runs that succeeded. As services/runtime/cost.py, which says why.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lectern {

// Seconds of a run as `fixed + per_place * places`: least squares over past runs, weighted towards recent ones.
class RunCost {
 public:
  // `per_place`: seconds, measured before; 0 = the cost of a run does not depend on its size.
  explicit RunCost(double per_place = 0) : given_(per_place) {}

  void observe(double places, double seconds) {
    n_ = kForgetting * n_ + 1;
    p_ = kForgetting * p_ + places;
    s_ = kForgetting * s_ + seconds;
    pp_ = kForgetting * pp_ + places * places;
    ps_ = kForgetting * ps_ + places * seconds;
    const double mean_places = p_ / n_, mean_seconds = s_ / n_;
    const double variance = pp_ / n_ - mean_places * mean_places;
    const double covariance = ps_ / n_ - mean_places * mean_seconds;
    per_place_ = std::max(0.0, (covariance + kPriorWeight * given_) / (variance + kPriorWeight));
    fixed_ = mean_seconds - per_place_ * mean_places;
    if (fixed_ < 0) {
      fixed_ = 0;
      per_place_ = ps_ / pp_;
    }
  }

  // Estimate for so many runs with so many places in all; 0 before the first observation.
  double seconds(int64_t batches, int64_t places) const {
    return static_cast<double>(batches) * fixed_ + static_cast<double>(places) * per_place_;
  }

 private:
  static constexpr double kForgetting = 0.95;  // the weight of a run is multiplied by this with each later run
  static constexpr double kPriorWeight = 1;    // of the given `per_place`, as if runs differed by a variance of one place

  double given_, fixed_ = 0, per_place_ = 0;
  double n_ = 0, p_ = 0, s_ = 0, pp_ = 0, ps_ = 0;  // weighted sums: 1, places, seconds, places^2, places * seconds
};

}  // namespace lectern
