// The queue for Python. C++ threads never take the GIL: what they let go of or want to tell is kept until Python asks.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <system_error>

#include "queue.h"
#include "unlocked.h"

namespace py = pybind11;

namespace lectern {

namespace {

constexpr size_t kLargeCopy = size_t{1} << 17;  // bytes; takes about 10 us

using FailureTuple = std::tuple<int, std::string, double, py::bytes>;

struct Datatype {
  const char* name;
  int number;  // NumPy's
};

constexpr Datatype kDatatypes[] = {{"BOOL", 0},   {"INT8", 1},  {"UINT8", 2},   {"INT16", 3}, {"UINT16", 4}, {"INT32", 5},
                                   {"UINT32", 6}, {"INT64", 7}, {"UINT64", 8},  {"FP32", 11}, {"FP64", 12},  {"FP16", 23}};

py::dtype dtype_of(const TensorSpec& spec) {
  for (const auto& datatype : kDatatypes)
    if (spec.datatype == datatype.name) return py::dtype(datatype.number);
  throw py::value_error("unknown datatype " + spec.datatype);
}

// A list that C++ threads fill and one Python thread empties.
template <class Item>
class Box {
 public:
  void put(Item item) {
    std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
    changed_.notify_one();
  }
  std::vector<Item> take() {
    std::lock_guard lock(mutex_);
    return std::exchange(items_, {});
  }
  std::vector<Item> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !items_.empty(); });
    return std::exchange(items_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Item> items_;
};

// Both last as long as the process: daemon threads may use them while it ends.
template <class Item>
Box<Item>& endless() {
  static auto& box = *std::make_unique<Box<Item>>().release();
  return box;
}

Box<uint64_t>& terminations() { return endless<uint64_t>(); }
Box<PyObject*>& graveyard() { return endless<PyObject*>(); }

// Releases what C++ threads let go of; the caller holds the GIL.
void bury() {
  for (PyObject* object : graveyard().take()) Py_DECREF(object);
}

// A reference that any thread may drop.
class Keep {
 public:
  explicit Keep(py::object object) : object_(object.release().ptr()) {}
  Keep(Keep&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Keep& operator=(Keep&&) = delete;
  ~Keep() {
    if (object_ && PyGILState_Check())
      Py_DECREF(object_);
    else if (object_)
      graveyard().put(object_);
  }
  py::object get() const { return py::reinterpret_borrow<py::object>(object_); }

 private:
  PyObject* object_;
};

py::array array_over(Buffer buffer, const TensorSpec& spec) {
  py::capsule owner(buffer.data.get(), [](void* memory) { std::free(memory); });
  const char* data = buffer.data.release();
  return py::array(dtype_of(spec), buffer.shape, data, owner);
}

FailureTuple tuple_of(const Failure& failure) {
  return {static_cast<int>(failure.code), failure.message, failure.retry_after, py::bytes(failure.status)};
}

// `array` as the spec has it, C-contiguous.
py::array checked(const py::handle& object, const TensorSpec& spec) {
  auto array = py::array::ensure(object, py::array::c_style);
  if (!array || !array.dtype().equal(dtype_of(spec))) throw py::type_error(spec.name + " is not an array of " + spec.datatype);
  return array;
}

Tensor view_of(const py::array& array) {
  return {static_cast<const char*>(array.data()), Shape(array.shape(), array.shape() + array.ndim())};
}

class PyRequest;

// Finished requests of one event loop, which watches the descriptor: written to when the first is put in.
class Mailbox {
 public:
  Mailbox() : descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  ~Mailbox() { ::close(descriptor_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  int descriptor() const { return descriptor_; }
  void put(std::shared_ptr<PyRequest> request) {
    std::lock_guard lock(mutex_);
    finished_.push_back(std::move(request));
    if (finished_.size() == 1) eventfd_write(descriptor_, 1);
  }
  py::list completions();

 private:
  const int descriptor_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<PyRequest>> finished_;
};

// A request from Python, with its arrays and what its caller knows it by.
class PyRequest : public Request, public std::enable_shared_from_this<PyRequest> {
 public:
  PyRequest(std::shared_ptr<const GraphConfig> config, const py::tuple& arrays, const std::shared_ptr<Mailbox>& mailbox,
            py::object token)
      : config_(std::move(config)), mailbox_(mailbox), token_(std::move(token)) {
    if (arrays.size() != config_->inputs.size()) throw py::value_error("another number of arrays than inputs");
    for (size_t i = 0; i < arrays.size(); i++) {
      auto array = checked(arrays[i], config_->inputs[i]);
      inputs.push_back(view_of(array));
      arrays_.emplace_back(std::move(array));
    }
    counted = false;  // the caller counts it
  }

  void finished(const Failure* failure) override {
    if (failure) failure_ = *failure;
    if (auto mailbox = mailbox_.lock()) mailbox->put(shared_from_this());
  }

  // (token, outputs or None, failure or None)
  py::tuple completion() {
    if (failure_) return py::make_tuple(token_.get(), py::none(), tuple_of(*failure_));
    py::list answer;
    for (size_t i = 0; i < outputs.size(); i++) answer.append(array_over(std::move(outputs[i]), config_->outputs[i]));
    return py::make_tuple(token_.get(), answer, py::none());
  }

  // (rows, requests, started, ended, number) of each run; once it is finished.
  py::list told_runs() const {
    py::list told;
    for (const auto& run : runs)
      told.append(py::make_tuple(run->rows, run->requests, run->started, run->ended.load(), run->number));
    return told;
  }

 private:
  const std::shared_ptr<const GraphConfig> config_;
  const std::weak_ptr<Mailbox> mailbox_;
  std::vector<Keep> arrays_;
  Keep token_;
  std::optional<Failure> failure_;
};

py::list Mailbox::completions() {
  eventfd_t ignored;
  std::vector<std::shared_ptr<PyRequest>> finished;
  {
    std::lock_guard lock(mutex_);
    eventfd_read(descriptor_, &ignored);
    finished = std::exchange(finished_, {});
  }
  py::list told;
  for (const auto& request : finished) told.append(request->completion());
  finished.clear();
  bury();
  return told;
}

// A batch until it is answered or has failed.
class PyBatch {
 public:
  explicit PyBatch(std::unique_ptr<Batch> batch) : batch_(std::move(batch)), number(batch_->number) {}

  std::optional<py::list> begin(double now) {
    Batch& batch = open();
    std::vector<Buffer> inputs;
    {
      std::optional<Unlocked> unlocked;  // to get it back may take longer than a small copy
      if (batch.input_bytes() > kLargeCopy) unlocked.emplace();
      inputs = batch.begin(now);
    }
    if (inputs.empty()) return std::nullopt;
    py::list arrays;
    for (size_t i = 0; i < inputs.size(); i++)
      arrays.append(array_over(std::move(inputs[i]), batch.queue().config().inputs[i]));
    return arrays;
  }

  void answer(const py::sequence& outputs, double now) {
    Batch& batch = open();
    const auto& specs = batch.queue().config().outputs;
    if (outputs.size() != specs.size()) throw py::value_error("another number of arrays than outputs");
    std::vector<py::array> arrays;
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < specs.size(); i++) {
      arrays.push_back(checked(outputs[i], specs[i]));
      tensors.push_back(view_of(arrays[i]));
    }
    {
      Unlocked unlocked;
      batch.answer(tensors, now);
    }
    close();
  }

  std::vector<std::unique_ptr<PyBatch>> fail(int code, std::string message, double retry_after, std::string status, double now) {
    const Failure failure{static_cast<Code>(code), std::move(message), retry_after, std::move(status)};
    std::vector<std::unique_ptr<PyBatch>> halves;
    for (auto& half : open().fail(failure, now)) halves.push_back(std::make_unique<PyBatch>(std::move(half)));
    close();
    return halves;
  }

  int64_t rows() const { return open().rows(); }
  bool abandoned() const { return open().abandoned(); }

 private:
  Batch& open() const {
    if (!batch_) throw py::value_error("the batch is over");
    return *batch_;
  }
  void close() {
    batch_.reset();
    bury();
  }

  std::unique_ptr<Batch> batch_;

 public:
  const uint64_t number;
};

TensorSpec spec_of(const py::handle& spec) {
  TensorSpec made{py::cast<std::string>(spec.attr("name")), py::cast<std::string>(spec.attr("datatype")), 0,
                  py::cast<Shape>(spec.attr("shape")), py::cast<int64_t>(spec.attr("longest"))};
  made.item_bytes = dtype_of(made).itemsize();
  return made;
}

// A services.runtime.config.GraphConfig; `rows` = most in one batch.
GraphConfig config_of(const py::object& config, int64_t version, int64_t rows) {
  GraphConfig made{py::cast<std::string>(config.attr("name")),
                   version,
                   py::cast<int64_t>(config.attr("max_batch_size")) > 0,
                   std::max<int64_t>(1, rows),
                   py::cast<double>(config.attr("max_queue_delay")),
                   {},
                   py::cast<int>(config.attr("default_priority")),
                   py::cast<int>(config.attr("instances")),
                   std::nullopt,
                   {},
                   {}};
  for (const auto& queue : config.attr("queues"))
    made.queues.push_back({py::cast<size_t>(queue.attr("max_size")), py::cast<double>(queue.attr("timeout")),
                           py::cast<bool>(queue.attr("may_override"))});
  for (const auto& spec : config.attr("inputs")) made.inputs.push_back(spec_of(spec));
  for (const auto& spec : config.attr("outputs")) made.outputs.push_back(spec_of(spec));
  const py::object padding = config.attr("padding");
  if (padding.is_none()) return made;
  made.padding = Padding{py::cast<size_t>(padding.attr("axis")), py::cast<int64_t>(padding.attr("multiple")),
                         py::cast<int64_t>(padding.attr("budget"))};
  const auto full = py::module_::import("numpy").attr("full");
  for (auto& spec : made.inputs)  // NumPy converts the value, for half precision too, or refuses it
    if (spec.variable())
      spec.fill = py::cast<std::string>(full(py::tuple(), padding.attr("value"), dtype_of(spec)).attr("tobytes")());
  return made;
}

// The request, or the failure with which it is refused.
std::variant<std::shared_ptr<PyRequest>, FailureTuple> submit(Queue& queue, const py::tuple& arrays, double deadline,
                                                              int priority, double max_wait, double now,
                                                              const std::shared_ptr<Mailbox>& mailbox, py::object token) {
  auto request = std::make_shared<PyRequest>(queue.shared_config(), arrays, mailbox, std::move(token));
  request->deadline = deadline;
  request->priority = priority;
  request->max_wait = max_wait;
  if (auto refused = queue.submit(request, now)) return tuple_of(*refused);
  return request;
}

std::unique_ptr<PyBatch> wrapped(std::unique_ptr<Batch> batch) {
  return batch ? std::make_unique<PyBatch>(std::move(batch)) : nullptr;
}

std::unique_ptr<PyBatch> next(Queue& queue) {
  std::unique_ptr<Batch> batch;
  {
    Unlocked unlocked;
    batch = queue.next();
  }
  bury();
  return wrapped(std::move(batch));
}

std::optional<py::dict> drain_counters(Queue& queue) {
  const auto counters = queue.drain_counters();
  if (!counters) return std::nullopt;
  py::dict rejected;
  for (size_t i = 0; i < kReasons.size(); i++)
    if (counters->rejected[i]) rejected[kReasons[i]] = counters->rejected[i];
  py::dict told;
  told["waits"] = counters->waits;
  told["wait_seconds"] = counters->wait_seconds;
  told["rejected"] = rejected;
  told["successes"] = py::make_tuple(counters->successes.count, counters->successes.seconds);
  told["failures"] = py::make_tuple(counters->failures.count, counters->failures.seconds);
  told["last_request"] = counters->last_request;
  told["depth"] = counters->depth;
  return told;
}

std::vector<uint64_t> next_terminated() {
  Unlocked unlocked;
  return terminations().wait();
}

}  // namespace

void bind_queue(py::module_& module) {
  py::class_<Mailbox, std::shared_ptr<Mailbox>>(module, "Mailbox")
      .def(py::init<>())
      .def("fileno", &Mailbox::descriptor)
      .def("completions", &Mailbox::completions);
  py::class_<PyRequest, std::shared_ptr<PyRequest>>(module, "Ticket").def_property_readonly("runs", &PyRequest::told_runs);
  py::class_<PyBatch>(module, "Batch")
      .def_readonly("number", &PyBatch::number)
      .def_property_readonly("rows", &PyBatch::rows)
      .def_property_readonly("abandoned", &PyBatch::abandoned)
      .def("begin", &PyBatch::begin, py::arg("now"))
      .def("answer", &PyBatch::answer, py::arg("outputs"), py::arg("now"))
      .def("fail", &PyBatch::fail, py::arg("code"), py::arg("message"), py::arg("retry_after"), py::arg("status"),
           py::arg("now"));
  py::class_<Queue, std::shared_ptr<Queue>>(module, "Queue")
      .def(py::init([](const py::object& config, int64_t version, int64_t rows, double seconds_per_place,
                       std::vector<double> wait_bounds) {
             return std::make_shared<Queue>(config_of(config, version, rows), seconds_per_place, std::move(wait_bounds),
                                            [](uint64_t number) { terminations().put(number); });
           }),
           py::arg("config"), py::arg("version"), py::arg("rows"), py::arg("seconds_per_place"), py::arg("wait_bounds"))
      .def("submit", &submit, py::arg("arrays"), py::arg("deadline"), py::arg("priority"), py::arg("max_wait"),
           py::arg("now"), py::arg("mailbox"), py::arg("token"))
      .def("wake", &Queue::wake)
      .def("abandon", [](Queue& queue, const std::shared_ptr<PyRequest>& request) { queue.abandon(request); })
      .def("take", [](Queue& queue, double now) { return wrapped(queue.take(now)); }, py::arg("now"))
      .def("next", &next)
      .def("close", &Queue::close)
      .def("seconds", &Queue::seconds, py::arg("batches"), py::arg("places"))
      .def("drain_counters", &drain_counters);
  module.def("next_terminated", &next_terminated);
  module.def("terminated", [] { return terminations().take(); });
  module.def("interrupt", [](uint64_t number) { terminations().put(number); }, py::arg("number"));
}

}  // namespace lectern
