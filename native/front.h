// The calls of a gRPC server: inferences in the common form are answered here, every other call by Python.
//
// One thread (`Server::run`) owns connections and calls. Python's event loop fetches events, many for one wake-up, and
// gives commands. Instances of graphs run on threads of Python, which take whole batches from the graphs' queues.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "http.h"
#include "quota.h"
#include "queue.h"
#include "wire.h"

namespace lectern {

struct FrontSettings {
  HttpSettings http;
  size_t message_bytes = 32 << 20;  // of one message
  size_t calls = 4096;              // under way at once
  int64_t axis_length = 1024;       // of an axis of variable length for which the graph sets no limit
  std::string infer_path;           // of the RPC that is answered here
  size_t clients = 10'000;          // whose usage is remembered
  std::vector<double> seconds_bounds;  // upper bounds of the buckets of `Counters::seconds`
};

struct Method {
  std::string path;
  bool client_streaming, server_streaming;
};

// What Python learns of a call, in order.
struct Event {
  enum class Kind { start, message, ended, broken, cancelled, sent, unread, failed, unlogged };
  explicit Event(Kind kind, uint64_t call = 0) : kind(kind), call(call) {}
  Kind kind;
  uint64_t call;  // its number; of `unlogged`, how many more inferences failed
  size_t method = 0;
  double deadline = kNever;
  std::string request_id, peer, client, encoding;
  Headers metadata;
  std::string message;  // with gRPC's prefix
  bool has_message = false;
  // Of `broken`, why a stream of requests ends early. Of `failed`, for the log: an inference that ended here in vain.
  Code code = Code::ok;
  std::string problem, model;
  double seconds = 0, queue_seconds = 0, inference_seconds = 0;
  int64_t batch_size = 0;  // of its last run; 0 = there was none
};

// What a token allows, by the SHA-256 of the token.
struct Grant {
  std::array<unsigned char, 32> digest;
  std::string client;
  double expires;  // in seconds since the epoch
  bool may_infer;
  Allowance allowance;
};

struct AccessTable {
  bool tokens = false;  // whether a call needs one
  Allowance allowance;  // of a client without a token
  std::vector<Grant> grants;
};

struct Route {
  std::shared_ptr<Queue> queue;
  std::vector<SharedAxis> shared;
};

// Graphs by name and version.
using Routes = std::unordered_map<std::string, std::map<int64_t, Route>>;

// Counters of inferences that were answered here, since they were last taken.
struct RpcCounters {
  uint64_t started = 0;
  std::array<uint64_t, 17> handled{};  // by code
  std::vector<uint64_t> seconds;       // per bucket, the last without an upper bound
  double seconds_sum = 0;
};

class Call;

class Front {
 public:
  explicit Front(FrontSettings settings);
  ~Front();

  // Before `start`.
  void add_method(Method method);
  void listen(int fd) { server_.listen(fd); }
  void start();

  // Any thread.
  void set_routes(Routes routes);
  void set_access(AccessTable access);
  void set_tls(std::shared_ptr<SSL_CTX> context) { server_.set_tls(std::move(context)); }
  void set_budget(size_t bytes) { budget_ = bytes; }
  void set_infers_here(bool value) { infers_here_ = value; }  // false = Python answers inferences too
  size_t active() const { return active_; }
  size_t inferring() const { return inferring_; }  // of those, the ones that are answered here
  const std::shared_ptr<Quota>& quota() const { return quota_; }
  uint64_t finished() const { return finished_; }
  RpcCounters take_counters();
  int event_fd() const { return event_fd_; }
  std::vector<Event> take_events();

  void read(uint64_t call);  // asks for the next message of a stream of requests
  void write(uint64_t call, std::string message);  // the event `sent` follows when the next may be written
  void answer(uint64_t call, std::string message);  // the only message, and OK
  void finish(uint64_t call, int code, std::string message, std::string_view details);
  void reset(uint64_t call);
  void send_elsewhere();  // no new calls on the connections there are; new ones are taken
  void shut_down();       // nor new connections
  void stop();            // ends every call

 private:
  friend class Call;
  friend class Inference;
  struct Command {
    enum class Kind { read, write, answer, finish, reset, send_elsewhere, shut_down } kind;
    uint64_t call;
    std::string message, details;
    int code = 0;
  };
  struct Outcome {
    std::shared_ptr<Call> call;
    std::string response;
    std::optional<Failure> failure;
  };

  void post(Outcome outcome);
  void post(Command command);
  void push(Event event);
  void end_of_turn();
  void obey(Command& command);
  void end_lingering();
  void count(Code code, double seconds);

  // Bytes of large requests that are still arriving or at work.
  bool reserve(const std::shared_ptr<Call>& call, size_t bytes);
  void release(size_t bytes);
  void let_in();  // those who wait for bytes

  FrontSettings settings_;
  std::vector<Method> methods_;
  std::unordered_map<std::string, size_t> method_of_path_;
  std::atomic<size_t> active_{0}, inferring_{0}, budget_{SIZE_MAX};
  std::atomic<uint64_t> finished_{0};
  std::atomic<uint64_t> taken_{0};  // the last call of which Python has taken an event
  std::atomic<bool> infers_here_{true}, lingers_{false};
  std::shared_ptr<Quota> quota_;
  std::shared_ptr<const Routes> routes_;
  std::shared_ptr<const AccessTable> access_;

  // Of the server's thread.
  std::unordered_map<uint64_t, std::shared_ptr<Call>> in_python_;
  uint64_t calls_ = 0, tickets_ = 0;
  size_t reserved_ = 0, working_ = 0;  // working_: calls whose request is complete, or a stream
  std::map<uint64_t, std::shared_ptr<Call>> waiting_;  // for bytes, by their tickets
  // Calls that ended before Python took their start, so that it still has to; and their connections' counts of such.
  std::deque<std::pair<uint64_t, std::shared_ptr<size_t>>> lingering_;
  std::set<std::shared_ptr<Queue>> touched_;
  std::vector<Event> new_events_;

  std::mutex mutex_;  // guards what follows
  std::vector<Outcome> outcomes_;
  std::vector<Command> commands_;
  std::vector<Event> events_;
  size_t failures_ = 0, unlogged_ = 0;  // in `events_`; of those, too many, that are only counted
  bool events_told_ = false;
  RpcCounters counters_;

  int event_fd_;
  Server server_;
  std::thread thread_;
};

}  // namespace lectern
