// What the stub answers, when, and to how many at once.
#pragma once

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "http.hpp"

namespace stub {

// Seconds until an answer: none, always the same, or log-normal with a given median and 99th percentile.
class Latency {
public:
    // "none", "fixed:SECONDS" or "log-normal:MEDIAN,P99".
    static Latency parse(const std::string& text, unsigned long seed) {
        Latency latency;
        latency.random_.seed(seed);
        const size_t colon = text.find(':');
        const std::string kind = text.substr(0, colon);
        if (kind == "none") return latency;
        const std::string numbers = colon == std::string::npos ? "" : text.substr(colon + 1);
        latency.median_ = std::stod(numbers);
        if (kind == "fixed") return latency;
        const size_t comma = numbers.find(',');
        if (kind != "log-normal" || comma == std::string::npos) throw std::invalid_argument("latency: " + text);
        const double normal_p99 = 2.3263478740408408;  // 99th percentile of the standard normal distribution
        latency.sigma_ = std::log(std::stod(numbers.substr(comma + 1)) / latency.median_) / normal_p99;
        return latency;
    }

    double draw() { return sigma_ == 0 ? median_ : median_ * std::exp(sigma_ * normal_(random_)); }

private:
    double median_ = 0;
    double sigma_ = 0;
    std::mt19937_64 random_;
    std::normal_distribution<double> normal_;
};

// How many samples are served at once, by seconds since the first request: "64" or "64@0,16@20,64@40".
class Schedule {
public:
    static Schedule parse(const std::string& text) {
        Schedule schedule;
        for (size_t start = 0; start < text.size();) {
            const size_t comma = std::min(text.find(',', start), text.size());
            const std::string step = text.substr(start, comma - start);
            const size_t at = step.find('@');
            schedule.steps_.emplace_back(at == std::string::npos ? 0.0 : std::stod(step.substr(at + 1)), std::stoi(step));
            start = comma + 1;
        }
        return schedule;
    }

    bool unlimited() const { return steps_.empty(); }

    int at(double seconds) const {
        int limit = steps_.front().second;
        for (const auto& [from, value] : steps_) {
            if (from <= seconds) limit = value;
        }
        return limit;
    }

    // Seconds at which the number changes next, infinity when it does not.
    double next_change(double seconds) const {
        for (const auto& [from, value] : steps_) {
            if (from > seconds) return from;
        }
        return INFINITY;
    }

private:
    std::vector<std::pair<double, int>> steps_;
};

// Whole responses, prebuilt. A file holds an answer in three parts between bytes 0x1e: what stands before the choices, one
// choice from behind its `{"index":0`, and the rest. Several files are answered in turn.
class Answers {
public:
    void add(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        const size_t first = text.find('\x1e');
        const size_t second = first == std::string::npos ? first : text.find('\x1e', first + 1);
        if (second == std::string::npos) throw std::invalid_argument("no answer in three parts: " + path);
        parts_.push_back({text.substr(0, first), text.substr(first + 1, second - first - 1), text.substr(second + 1)});
    }

    bool empty() const { return parts_.empty(); }

    const Response& take(int samples) {
        auto& built = built_[samples];
        if (built.empty()) {
            for (const auto& parts : parts_) built.push_back(build(parts, samples));
        }
        return built[turn_++ % built.size()];
    }

private:
    struct Parts {
        std::string head, choice, tail;
    };

    static Response build(const Parts& parts, int samples) {
        std::string body = parts.head;
        for (int index = 0; index < samples; ++index) {
            body.append(index ? "," : "").append("{\"index\":").append(std::to_string(index)).append(parts.choice);
        }
        return shared(response("200 OK", "application/json", body.append(parts.tail)));
    }

    std::vector<Parts> parts_;
    std::map<int, std::vector<Response>> built_;
    size_t turn_ = 0;
};

}  // namespace stub
