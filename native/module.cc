// Binds the front to Python: `services._native`.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "front.h"
#include "tls.h"
#include "unlocked.h"

namespace py = pybind11;

namespace lectern {

void bind_queue(py::module_& module);

namespace {

constexpr size_t kHeldMessages = 4;  // of the largest size, that all callers together may leave unread at least

// Whether a message is compressed, and its bytes without gRPC's prefix; of a stream, which has none yet, nothing.
py::tuple unframed(const std::string& message) {
  if (message.empty()) return py::make_tuple(false, py::bytes());
  return py::make_tuple(message[0] != 0, py::bytes(message.data() + kPrefixBytes, message.size() - kPrefixBytes));
}

// Header values may have any bytes.
py::str latin1(const std::string& text) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeLatin1(text.data(), Py_ssize_t(text.size()), nullptr));
}

constexpr std::chrono::milliseconds kDrainRound(5);

py::tuple to_tuple(const Event& event) {
  switch (event.kind) {
    case Event::Kind::start: {
      py::list metadata;
      for (const auto& [name, value] : event.metadata) metadata.append(py::make_tuple(latin1(name), latin1(value)));
      return py::make_tuple(event.kind, event.call, event.method, event.deadline, event.request_id, event.peer,
                            latin1(event.client), metadata, latin1(event.encoding), unframed(event.message));
    }
    case Event::Kind::message: return py::make_tuple(event.kind, event.call, unframed(event.message));
    case Event::Kind::broken: return py::make_tuple(event.kind, event.call, int(event.code), event.problem);
    case Event::Kind::failed:
      return py::make_tuple(event.kind, int(event.code), event.problem, event.seconds, event.request_id, event.peer,
                            latin1(event.client), event.model, event.queue_seconds, event.inference_seconds, event.batch_size);
    default: return py::make_tuple(event.kind, event.call);
  }
}

py::list events(Front& front) {
  std::vector<Event> taken;
  {
    Unlocked released;
    taken = front.take_events();
  }
  py::list list;
  for (const auto& event : taken) list.append(to_tuple(event));
  return list;
}

Front* make_front(size_t message_bytes, size_t calls, int64_t axis_length, uint32_t max_concurrent_streams, double max_connection_age,
                  double max_connection_age_grace, double reader_timeout, std::string infer_path,
                  std::vector<double> seconds_bounds, size_t clients) {
  FrontSettings settings;
  settings.message_bytes = message_bytes;
  settings.calls = calls;
  settings.axis_length = axis_length;
  settings.http.max_concurrent_streams = max_concurrent_streams;
  settings.http.max_connection_age = max_connection_age;
  settings.http.max_connection_age_grace = max_connection_age_grace;
  settings.http.reader_timeout = reader_timeout;
  settings.http.held_bytes = std::max(settings.http.held_bytes, kHeldMessages * message_bytes);
  settings.http.unread_bytes = std::max(settings.http.unread_bytes, message_bytes);
  settings.infer_path = std::move(infer_path);
  settings.clients = clients;
  settings.seconds_bounds = std::move(seconds_bounds);
  return new Front(std::move(settings));  // pybind11 owns it
}

// An RPC's lease, None without limits, or the failure.
py::object admit(Quota& quota, const std::string& client, double rate, double size, int64_t concurrency) {
  auto [lease, failure] = quota.admit(client, {rate, size, concurrency}, monotonic_seconds());
  if (failure) return py::make_tuple(int(failure->code), failure->message, failure->retry_after);
  return lease ? py::cast(std::move(lease)) : py::none();
}

py::object take(Quota::Lease& lease) {
  auto failure = lease.take(monotonic_seconds());
  if (!failure) return py::none();
  return py::make_tuple(int(failure->code), failure->message, failure->retry_after);
}

using Place = std::pair<size_t, size_t>;
using GivenRoute = std::tuple<std::string, int64_t, std::shared_ptr<Queue>, std::vector<std::vector<Place>>>;

void set_routes(Front& front, const std::vector<GivenRoute>& given) {
  Routes routes;
  for (const auto& [model, version, queue, shared] : given) routes[model][version] = Route{queue, shared};
  front.set_routes(std::move(routes));
}

using GivenAllowance = std::tuple<double, double, int64_t>;
using GivenGrant = std::tuple<py::bytes, std::string, double, bool, GivenAllowance>;

void set_access(Front& front, bool tokens, const GivenAllowance& allowance, const std::vector<GivenGrant>& given) {
  auto make = [](const GivenAllowance& of) { return Allowance{std::get<0>(of), std::get<1>(of), std::get<2>(of)}; };
  AccessTable access;
  access.tokens = tokens;
  access.allowance = make(allowance);
  for (const auto& [digest, client, expires, may_infer, client_allowance] : given) {
    Grant grant{{}, client, expires, may_infer, make(client_allowance)};
    std::string_view bytes = digest;
    if (bytes.size() != grant.digest.size()) throw std::invalid_argument("a digest has another length");
    std::copy(bytes.begin(), bytes.end(), grant.digest.begin());
    access.grants.push_back(std::move(grant));
  }
  front.set_access(std::move(access));
}

py::tuple take_counters(Front& front) {
  auto counters = front.take_counters();
  return py::make_tuple(counters.started, counters.handled, counters.seconds, counters.seconds_sum);
}

// Waits until no call is under way, but not longer than so many seconds.
void drain(const Front& front, double seconds) {
  for (double end = monotonic_seconds() + seconds; front.active() && monotonic_seconds() < end;) {
    std::this_thread::sleep_for(kDrainRound);
  }
}

void set_tls(Front& front, const std::string& certificate, const std::string& key, const std::string& client_ca) {
  front.set_tls(tls_context(certificate, key, client_ca));
}

void bind_front(py::module_& module) {
  py::native_enum<Event::Kind>(module, "Kind", "enum.Enum")
      .value("START", Event::Kind::start)
      .value("MESSAGE", Event::Kind::message)
      .value("ENDED", Event::Kind::ended)
      .value("BROKEN", Event::Kind::broken)
      .value("CANCELLED", Event::Kind::cancelled)
      .value("SENT", Event::Kind::sent)
      .value("UNREAD", Event::Kind::unread)
      .value("FAILED", Event::Kind::failed)
      .value("UNLOGGED", Event::Kind::unlogged)
      .finalize();
  using Released = py::call_guard<Unlocked>;
  py::class_<Quota::Lease>(module, "Lease").def("take", &take);
  py::class_<Quota, std::shared_ptr<Quota>>(module, "Quota")
      .def(py::init<size_t>(), py::arg("clients"))
      .def("admit", &admit)
      .def_property_readonly("clients", &Quota::clients);
  py::class_<Front>(module, "Front")
      .def(py::init(&make_front), py::kw_only(), py::arg("message_bytes"), py::arg("calls"), py::arg("axis_length"), py::arg("max_concurrent_streams"),
           py::arg("max_connection_age"), py::arg("max_connection_age_grace"), py::arg("reader_timeout"), py::arg("infer_path"),
           py::arg("seconds_bounds"), py::arg("clients"))
      .def("add_method", [](Front& front, std::string path, bool client_streaming, bool server_streaming) {
        front.add_method({std::move(path), client_streaming, server_streaming});
      })
      .def("listen", &Front::listen, "Serve a bound, listening socket, whose descriptor it owns from now on.")
      .def("start", &Front::start)
      .def("set_routes", &set_routes)
      .def("set_access", &set_access)
      .def("set_tls", &set_tls)
      .def("set_budget", &Front::set_budget)
      .def("set_infers_here", &Front::set_infers_here)
      .def_property_readonly("active", &Front::active)
      .def_property_readonly("inferring", &Front::inferring)
      .def_property_readonly("finished", &Front::finished)
      .def_property_readonly("event_fd", &Front::event_fd)
      .def_property_readonly("quota", &Front::quota)
      .def("events", &events)
      .def("take_counters", &take_counters)
      .def("read", &Front::read)
      .def("write", [](Front& front, uint64_t call, const py::bytes& message) {
        std::string_view bytes = message;
        Unlocked released;
        front.write(call, prefixed(bytes));
      })
      .def("answer", [](Front& front, uint64_t call, const py::bytes& message) {
        std::string_view bytes = message;
        Unlocked released;
        front.answer(call, prefixed(bytes));
      })
      .def("finish", [](Front& front, uint64_t call, int code, const std::string& message, const py::bytes& details) {
        front.finish(call, code, message, std::string_view(details));
      })
      .def("reset", &Front::reset)
      .def("drain", &drain, Released())
      .def("send_elsewhere", &Front::send_elsewhere, Released())
      .def("shut_down", &Front::shut_down, Released())
      .def("stop", &Front::stop, Released());
}

}  // namespace
}  // namespace lectern

PYBIND11_MODULE(_native, module) {
  module.doc() = "The native front: an HTTP/2 server with gRPC, and the queues of graphs.";
  lectern::bind_queue(module);
  lectern::bind_front(module);
}
