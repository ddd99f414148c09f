// One RPC from its headers to its answer: an inference in the common form, or a call for Python.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "clock.h"
#include "front.h"

namespace lectern {

// An inference of a call, in the queue of its graph.
class Inference : public Request {
 public:
  Inference(Front& front, std::shared_ptr<Call> call, std::string message)
      : message(std::move(message)), front_(front), call_(std::move(call)) {}
  void finished(const Failure* failure) override;

  std::string message;  // with its prefix; `inputs` and `id` are views into it
  std::string_view id;
  std::vector<size_t> wanted;  // positions of outputs
  std::shared_ptr<Queue> queue;

 private:
  Front& front_;
  std::shared_ptr<Call> call_;
};

// One RPC. Everything here runs on the server's thread.
class Call : public Stream {
 public:
  explicit Call(Front& front) : front_(front), started_(monotonic_seconds()) {}

  void on_header(std::string_view name, std::string_view value) override;
  void on_too_many_headers() override;
  void on_headers() override;
  void on_data(std::string_view bytes) override;
  void on_end() override;
  void on_sent() override { tell(Event::Kind::sent); }
  void on_closed() override;

  void on_unread() override;
  void on_second(double now) override;

  void granted();              // the bytes that it waited for
  void read();                 // Python wants the next message
  void answer(std::string response);
  void fail(const Failure& failure);
  void end(int code, std::string_view message, std::string_view details);  // by Python
  void send(std::string message);

 private:
  friend class Front;
  enum class State { headers, receiving, inferring, in_python, over };

  std::shared_ptr<Call> self() { return std::static_pointer_cast<Call>(shared_from_this()); }
  const Method& method() const { return front_.methods_[method_]; }
  void admit();
  bool begin();
  bool stop_waiting();  // for bytes; whether it did
  void set_timer(double at, void (Call::*action)());
  void clear_timer();
  void late();
  void out_of_memory();
  void take_messages();
  bool check_prefix();
  void give_message();
  void dispatch();
  bool infer();
  bool prepare(Inference& inference);
  std::optional<Allowance> authorised();
  void to_python(std::string message, bool has_message);
  void tell(Event::Kind kind);
  void done(Code code, const std::string& problem);

  Front& front_;
  double started_;
  State state_ = State::headers;
  std::string http_method_, path_, content_type_, encoding_, request_id_, authorization_, priority_, client_;
  Headers metadata_;
  size_t method_ = 0;
  double deadline_ = kNever;
  bool counted_ = false, working_ = false, refused_ = false, told_unread_ = false, ended_ = false, timer_set_ = false, started_reply_ = false;
  Timers::Key timer_;

  std::string received_;  // the message that is arriving, with its prefix; in a stream perhaps more than one
  size_t message_size_ = 0, reserved_ = 0, waits_for_ = 0, arrived_ = 0;
  uint64_t ticket_ = 0;
  double looked_ = 0;  // when `arrived_` was last set to 0
  bool sized_ = false;
  std::deque<std::string> messages_;
  bool wanted_ = false, told_end_ = false;

  uint64_t number_ = 0;  // in Python
  std::shared_ptr<Inference> inference_;
  std::unique_ptr<Quota::Lease> lease_;
  std::string model_;
  bool was_late_ = false;
};

}  // namespace lectern
