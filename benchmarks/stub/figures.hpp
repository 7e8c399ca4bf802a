// What the stub has seen since it started or was reset: the measurement that no client can flatter.
#pragma once

#include <algorithm>
#include <deque>
#include <sstream>
#include <string>
#include <vector>

namespace stub {

// Times are seconds of one monotonic clock; `unix_offset` added to them gives UNIX seconds. "In flight" are samples that
// were taken in and are not answered yet, those that wait for their turn included.
class Figures {
public:
    explicit Figures(double unix_offset, double window_s) : unix_offset_(unix_offset), window_s_(window_s) {}

    bool started() const { return first_ >= 0; }
    double since_first(double now) const { return started() ? now - first_ : 0; }
    int in_flight() const { return in_flight_; }

    // Forget everything but what is in flight.
    void reset(double now) {
        const int in_flight = in_flight_;
        *this = Figures(unix_offset_, window_s_);
        in_flight_ = max_in_flight_ = in_flight;
        updated_ = now;
    }

    void requested(double now) {
        if (!started()) first_ = updated_ = now;
        advance(now);
        last_ = now;
        integral_at_last_ = integral_;
        if (window_s_ <= 0) return;
        arrivals_.push_back(now);
        while (arrivals_.front() <= now - window_s_) arrivals_.pop_front();
        max_in_window_ = std::max(max_in_window_, arrivals_.size());
    }

    void taken(double now, int samples) {
        advance(now);
        in_flight_ += samples;
        max_in_flight_ = std::max(max_in_flight_, in_flight_);
    }

    void answered(double now, int samples) {
        advance(now);
        in_flight_ -= samples;
        ++requests_answered_;
        samples_answered_ += samples;
        answered_by_second_[second(now)] += samples;
        last_answer_ = now;
    }

    void abandoned(double now, int samples) {
        advance(now);
        in_flight_ -= samples;
        abandoned_ += samples;
    }

    void refused(double now) {
        advance(now);
        ++refused_;
        refused_by_second_[second(now)] += 1;
    }

    std::string json(double now) {
        if (started()) advance(now);
        std::ostringstream out;
        out.precision(17);
        out << "{\"requests_answered\":" << requests_answered_ << ",\"samples_answered\":" << samples_answered_
            << ",\"refused\":" << refused_ << ",\"abandoned\":" << abandoned_ << ",\"in_flight\":" << in_flight_
            << ",\"max_in_flight\":" << max_in_flight_ << ",\"in_flight_integral_s\":" << integral_
            << ",\"in_flight_integral_at_last_request_s\":" << integral_at_last_;
        moment(out, "first_request_at", first_);
        moment(out, "last_request_at", last_);
        moment(out, "last_answer_at", last_answer_);
        out << ",\"max_requests_in_window\":" << max_in_window_;
        list(out, "answered_by_second", answered_by_second_);
        list(out, "refused_by_second", refused_by_second_);
        list(out, "in_flight_by_second", in_flight_by_second_);
        return out.str() + "}";
    }

private:
    size_t second(double now) {
        const size_t index = static_cast<size_t>(now - first_);
        if (answered_by_second_.size() <= index) {
            answered_by_second_.resize(index + 1);
            refused_by_second_.resize(index + 1);
            in_flight_by_second_.resize(index + 1);
        }
        return index;
    }

    void advance(double now) {
        if (!started()) return;
        integral_ += in_flight_ * (now - updated_);
        while (updated_ < now) {
            const size_t index = second(updated_);
            const double until = std::min(now, first_ + static_cast<double>(index) + 1);
            in_flight_by_second_[index] += in_flight_ * (until - updated_);
            if (until <= updated_) break;  // the clock's last bit at the border of a second
            updated_ = until;
        }
        updated_ = now;
        second(now);
    }

    void moment(std::ostringstream& out, const char* name, double at) const {
        out << ",\"" << name << "\":";
        at < 0 ? out << "null" : out << at + unix_offset_;
    }

    template <typename T>
    static void list(std::ostringstream& out, const char* name, const std::vector<T>& values) {
        out << ",\"" << name << "\":[";
        for (size_t i = 0; i < values.size(); ++i) out << (i ? "," : "") << values[i];
        out << "]";
    }

    double unix_offset_, window_s_;
    long requests_answered_ = 0, samples_answered_ = 0, refused_ = 0, abandoned_ = 0;
    int in_flight_ = 0, max_in_flight_ = 0;
    double integral_ = 0, integral_at_last_ = 0, updated_ = 0;
    double first_ = -1, last_ = -1, last_answer_ = -1;
    std::deque<double> arrivals_;
    size_t max_in_window_ = 0;
    std::vector<long> answered_by_second_, refused_by_second_;
    std::vector<double> in_flight_by_second_;
};

}  // namespace stub
