// The time in which a thread of Python does without the GIL.
#pragma once

#include <pybind11/pybind11.h>

namespace lectern {

// As pybind11::gil_scoped_release, but the interpreter may end meanwhile: Python then ends the thread by unwinding its
// stack, which may not pass a destructor that is noexcept.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() noexcept(false) { PyEval_RestoreThread(state_); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace lectern
