#include "batches.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>

namespace lectern {

namespace {

constexpr size_t kAlignment = 64;  // bytes; a cache line, and the widest vector

int64_t product(Shape::const_iterator begin, Shape::const_iterator end) {
  return std::accumulate(begin, end, int64_t{1}, std::multiplies<>());
}

int64_t size_of(const Shape& shape) { return product(shape.begin(), shape.end()); }

// Copies one part's rows of an input to the start of its rows in the batch, whose padded axis may be longer.
void copy_padded(const TensorSpec& spec, const Part& part, const Tensor& from, const Buffer& to, size_t axis, char* at) {
  const int64_t inner = product(from.shape.begin() + axis + 1, from.shape.end()) * spec.item_bytes;
  const size_t length = from.shape[axis] * inner, longest = to.shape[axis] * inner;
  const int64_t blocks = part.rows() * product(from.shape.begin() + 1, from.shape.begin() + axis);
  const char* data = from.data + part.start * (blocks / part.rows()) * length;
  for (int64_t block = 0; block < blocks; block++, at += longest, data += length) {
    std::memcpy(at, data, length);
    for (size_t pad = length; pad < longest; pad += spec.item_bytes)
      std::memcpy(at + pad, spec.fill.data(), spec.item_bytes);
  }
}

Buffer joined_input(const GraphConfig& config, const std::vector<Part>& parts, size_t input) {
  const auto& spec = config.inputs[input];
  const Shape& first = parts[0].request->inputs[input].shape;
  if (!config.batched) {
    Buffer whole(first, spec.item_bytes);
    std::memcpy(whole.data.get(), parts[0].request->inputs[input].data, whole.bytes);
    return whole;
  }
  Shape shape = first;
  shape[0] = 0;
  const bool padded = config.padding && spec.variable();
  for (const auto& part : parts) {
    shape[0] += part.rows();
    if (padded) shape[config.padding->axis] = std::max(shape[config.padding->axis], part.request->state.length);
  }
  Buffer whole(shape, spec.item_bytes);
  const size_t row = product(shape.begin() + 1, shape.end()) * spec.item_bytes;
  char* at = whole.data.get();
  for (const auto& part : parts) {
    const Tensor& from = part.request->inputs[input];
    if (padded && row)
      copy_padded(spec, part, from, whole, config.padding->axis, at);
    else
      std::memcpy(at, from.data + part.start * row, part.rows() * row);
    at += part.rows() * row;
  }
  return whole;
}

// Copies the first places of each axis from `axis` on, as many as `to_shape` has.
void copy_cut(const char* from, const Shape& from_shape, char*& to, const Shape& to_shape, size_t axis, size_t item) {
  if (std::equal(from_shape.begin() + axis, from_shape.end(), to_shape.begin() + axis)) {
    const size_t bytes = product(to_shape.begin() + axis, to_shape.end()) * item;
    std::memcpy(to, from, bytes);
    to += bytes;
    return;
  }
  const size_t step = product(from_shape.begin() + axis + 1, from_shape.end()) * item;
  for (int64_t i = 0; i < to_shape[axis]; i++)
    copy_cut(from + i * step, from_shape, to, to_shape, axis + 1, item);
}

}  // namespace

bool TensorSpec::variable() const { return std::find(shape.begin(), shape.end(), -1) != shape.end(); }

size_t Tensor::bytes(const TensorSpec& spec) const { return size_of(shape) * spec.item_bytes; }

Buffer::Buffer(Shape of, size_t item_bytes) : shape(std::move(of)), bytes(size_of(shape) * item_bytes) {
  const size_t rounded = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  data = {static_cast<char*>(std::aligned_alloc(kAlignment, rounded)), std::free};
  if (!data) throw std::bad_alloc();
}

Run::Run(int64_t rows, int64_t requests, double started)
    : rows(rows), requests(requests), started(started), number([] {
        static thread_local std::mt19937_64 random(std::random_device{}());
        return random();
      }()) {}

int64_t length_of(const GraphConfig& config, const std::vector<Tensor>& inputs) {
  if (!config.padding) return 1;
  const auto padded = std::find_if(config.inputs.begin(), config.inputs.end(), [](auto& spec) { return spec.variable(); });
  return inputs.at(padded - config.inputs.begin()).shape.at(config.padding->axis);
}

Kind kind_of(const GraphConfig& config, const std::vector<Tensor>& inputs) {
  Kind kind{{}, std::max<int64_t>(1, config.rows), 1};
  for (const auto& tensor : inputs)
    kind.shapes.emplace_back(tensor.shape.begin() + !tensor.shape.empty(), tensor.shape.end());
  if (!config.padding) return kind;
  const auto& padding = *config.padding;
  kind.length = (length_of(config, inputs) + padding.multiple - 1) / padding.multiple * padding.multiple;
  kind.rows = std::max<int64_t>(1, std::min(kind.rows, padding.budget / std::max<int64_t>(1, kind.length)));
  for (size_t i = 0; i < inputs.size(); i++)
    if (config.inputs[i].variable()) kind.shapes[i].at(padding.axis - 1) = kind.length;
  return kind;
}

std::vector<Buffer> joined(const GraphConfig& config, const std::vector<Part>& parts) {
  std::vector<Buffer> batch;
  for (size_t input = 0; input < config.inputs.size(); input++) batch.push_back(joined_input(config, parts, input));
  return batch;
}

Outputs::Outputs(const GraphConfig& config, const std::vector<Tensor>& tensors, const std::vector<Part>& parts)
    : config_(config), tensors_(tensors), parts_(parts) {
  int64_t rows = 0;
  for (const auto& part : parts) {
    starts_.push_back(rows);
    rows += part.rows();
    longest_ = std::max(longest_, part.request->state.length);
  }
  if (tensors.size() != config.outputs.size()) throw std::invalid_argument("the run has another number of outputs");
  whole_ = !config.batched || (parts.size() == 1 && rows == parts[0].request->state.rows);
  if (whole_) return;
  for (size_t i = 0; i < tensors.size(); i++) {
    const auto& shape = tensors[i].shape;
    if (shape.empty() || shape[0] != rows || (config.padding && shape.size() <= config.outputs[i].shape.size()))
      throw std::invalid_argument("output " + config.outputs[i].name + " does not have a row for each input row");
  }
}

Shape Outputs::shape_of(size_t part, size_t output) const {
  const Shape& spec = config_.outputs[output].shape;
  Shape shape = tensors_[output].shape;
  if (whole_) return shape;
  shape[0] = parts_[part].request->state.rows;
  const int64_t length = parts_[part].request->state.length;
  if (config_.padding && length < longest_)
    for (size_t axis = 0; axis < spec.size(); axis++)
      if (spec[axis] < 0) shape[axis + 1] = std::min(shape[axis + 1], length);
  return shape;
}

void Outputs::reserve(size_t part) const {
  auto& buffers = parts_[part].request->outputs;
  std::vector<Buffer> made;
  for (size_t i = 0; i < tensors_.size(); i++) {
    Shape shape = shape_of(part, i);
    if (buffers.empty())
      made.emplace_back(std::move(shape), config_.outputs[i].item_bytes);
    else if (buffers[i].shape != shape)
      throw std::invalid_argument("output " + config_.outputs[i].name + " differs in shape between the runs of one request");
  }
  if (buffers.empty()) buffers = std::move(made);
}

void Outputs::copy(size_t part) const {
  const Part& own = parts_[part];
  for (size_t i = 0; i < tensors_.size(); i++) {
    const Buffer& buffer = own.request->outputs[i];
    const size_t item = config_.outputs[i].item_bytes;
    if (whole_) {
      std::memcpy(buffer.data.get(), tensors_[i].data, buffer.bytes);
      continue;
    }
    Shape from = tensors_[i].shape, to = buffer.shape;
    from[0] = to[0] = own.rows();
    char* at = buffer.data.get() + own.start * product(to.begin() + 1, to.end()) * item;
    copy_cut(tensors_[i].data + starts_[part] * product(from.begin() + 1, from.end()) * item, from, at, to, 0, item);
  }
}

}  // namespace lectern
