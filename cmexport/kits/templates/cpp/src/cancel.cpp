#include "cmkit/cancel.hpp"

#include <utility>

namespace cmkit {

void Cancel::request() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(requested_, true)) return;
  for (const auto& stop : stops_) stop();
}

bool Cancel::requested() const {
  const std::lock_guard lock(mutex_);
  return requested_;
}

Cancel::Watch::Watch(Cancel* cancel, std::function<void()> stop) : cancel_(cancel) {
  if (cancel_ == nullptr) return;
  const std::lock_guard lock(cancel_->mutex_);
  if (cancel_->requested_) stop();
  place_ = cancel_->stops_.insert(cancel_->stops_.end(), std::move(stop));
}

Cancel::Watch::~Watch() {
  if (cancel_ == nullptr) return;
  const std::lock_guard lock(cancel_->mutex_);
  cancel_->stops_.erase(place_);
}

}  // namespace cmkit
