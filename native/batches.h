// Joins requests to one batch and parts its outputs again; pads rows to one length. As services/runtime/batches.py.
#pragma once

#include "request.h"

namespace lectern {

// Length of the padded axis; 1 if no axis is padded.
int64_t length_of(const GraphConfig& config, const std::vector<Tensor>& inputs);

Kind kind_of(const GraphConfig& config, const std::vector<Tensor>& inputs);

// The inputs of parts of one kind as one batch, padded to the longest.
std::vector<Buffer> joined(const GraphConfig& config, const std::vector<Part>& parts);

// The outputs of one run, to be parted between its callers.
class Outputs {
 public:
  // Throws std::invalid_argument if there is not a row for each row of the parts.
  Outputs(const GraphConfig& config, const std::vector<Tensor>& tensors, const std::vector<Part>& parts);

  // Makes the request's output buffers if another run has not made them. Throws std::invalid_argument if that run's
  // outputs had other shapes.
  void reserve(size_t part) const;
  // Copies the part's rows into the request's buffers.
  void copy(size_t part) const;

 private:
  Shape shape_of(size_t part, size_t output) const;

  const GraphConfig& config_;
  const std::vector<Tensor>& tensors_;
  const std::vector<Part>& parts_;
  std::vector<int64_t> starts_;  // of each part's rows in the tensors
  int64_t longest_ = 1;
  bool whole_ = false;  // the outputs are one request's, as they are
};

}  // namespace lectern
