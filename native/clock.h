#pragma once

#include <ctime>

namespace lectern {

// Seconds of CLOCK_MONOTONIC, as Python's time.monotonic().
inline double monotonic_seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

}  // namespace lectern
