#include "quota.h"

#include <algorithm>
#include <cstdio>

namespace lectern {
namespace {

constexpr double kConcurrencyRetry = 0.1;  // nobody knows when one of a client's RPCs will end
constexpr double kRounding = 1e-6;         // of a request, so that a caller that waits as told is admitted

std::string formatted(const char* format, double number) {
  char text[32];
  std::snprintf(text, sizeof text, format, number);
  return text;
}

}  // namespace

Quota::Lease::Lease(std::shared_ptr<Quota> quota, std::string client, std::shared_ptr<Usage> usage, Allowance allowance)
    : quota_(std::move(quota)), client_(std::move(client)), usage_(std::move(usage)), allowance_(allowance) {}

Quota::Lease::~Lease() {
  std::lock_guard lock(quota_->mutex_);
  if (counts_) usage_->active--;
}

std::optional<Failure> Quota::Lease::take(double now) {
  if (allowance_.rate <= 0) return {};
  std::lock_guard lock(quota_->mutex_);
  double passed = std::max(0.0, now - usage_->updated);
  usage_->left = std::min(allowance_.size, usage_->left + passed * allowance_.rate);
  usage_->updated = std::max(now, usage_->updated);
  if (usage_->left < 1 - kRounding) {
    double wait = (1 - usage_->left) / allowance_.rate;
    return Failure{Code::resource_exhausted, "client " + client_ + " may send " + formatted("%g", allowance_.rate) +
                   " requests per second; try again in " + formatted("%.3g", wait) + " s", wait};
  }
  usage_->left -= 1;
  return {};
}

void Quota::Lease::give_back() {
  std::lock_guard lock(quota_->mutex_);
  usage_->left += 1;
}

std::pair<std::unique_ptr<Quota::Lease>, std::optional<Failure>> Quota::admit(const std::string& client, const Allowance& allowance,
                                                                              double now) {
  if (!allowance.limits()) return {nullptr, std::nullopt};
  std::unique_ptr<Lease> lease;
  {
    std::lock_guard lock(mutex_);
    auto used = usage(client, allowance.size, now);
    if (allowance.concurrency > 0 && used->active >= allowance.concurrency) {
      return {nullptr, Failure{Code::resource_exhausted, "client " + client + " may have " + std::to_string(allowance.concurrency) +
                               " RPCs under way; wait for one to end", kConcurrencyRetry}};
    }
    lease.reset(new Lease(shared_from_this(), client, used, allowance));
    used->active++;
    lease->counts_ = true;
  }
  if (auto failure = lease->take(now)) return {nullptr, std::move(failure)};
  return {std::move(lease), std::nullopt};
}

size_t Quota::clients() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

std::shared_ptr<Quota::Lease::Usage> Quota::usage(const std::string& client, double size, double now) {
  if (auto place = places_.find(client); place != places_.end()) {
    entries_.splice(entries_.end(), entries_, place->second);
    return place->second->second;
  }
  if (entries_.size() >= clients_) forget_one();
  entries_.emplace_back(client, std::make_shared<Lease::Usage>(Lease::Usage{size, now}));
  places_.emplace(client, std::prev(entries_.end()));
  return entries_.back().second;
}

// A client with RPCs under way is kept: forgetting it would let it start over.
void Quota::forget_one() {
  for (size_t i = entries_.size(); i > 0; i--) {
    if (!entries_.front().second->active) {
      places_.erase(entries_.front().first);
      entries_.pop_front();
      return;
    }
    entries_.splice(entries_.end(), entries_, entries_.begin());  // so that nobody looks at it again and again
  }
}

}  // namespace lectern
