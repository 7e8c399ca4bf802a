// One thread, one epoll: takes requests, holds each for its latency, answers. A connection has one request at a time; what
// was pipelined behind it stays in the buffer until the answer is out.
#pragma once

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <deque>
#include <queue>
#include <stdexcept>
#include <string>
#include <vector>

#include "behaviour.hpp"
#include "figures.hpp"
#include "http.hpp"

namespace stub {

struct Options {
    int port = 0;
    std::string model = "stub";
    Answers answers;
    Latency latency;
    Schedule refuse_beyond;    // 429 to what exceeds it
    Schedule queue_beyond;     // waits for its turn when it exceeds it, as in an inference server
    std::string retry_after;   // seconds for the header of a 429, none when empty
    double window_s = 0;       // length of the window in which requests are counted, 0 for none
};

inline double clock_s(clockid_t clock) {
    timespec at{};
    clock_gettime(clock, &at);
    return static_cast<double>(at.tv_sec) + 1e-9 * static_cast<double>(at.tv_nsec);
}

class Server {
public:
    explicit Server(Options options)
        : options_(std::move(options)),
          figures_(clock_s(CLOCK_REALTIME) - clock_s(CLOCK_MONOTONIC), options_.window_s) {
        const std::string more = options_.retry_after.empty() ? "" : "Retry-After: " + options_.retry_after + "\r\n";
        refusal_ = json("429 Too Many Requests", R"({"error":{"message":"too many requests at once","code":429}})", more);
        listen();
    }

    int port() const { return port_; }

    void run() {
        std::vector<epoll_event> events(1024);
        while (true) {
            const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait_ms());
            now_ = clock_s(CLOCK_MONOTONIC);
            for (int i = 0; i < count; ++i) {
                if (events[i].data.fd == listener_) {
                    accept_all();
                } else {
                    happened(events[i].data.fd, events[i].events);
                }
            }
            answer_due();
            serve_waiting();
        }
    }

private:
    enum class State { idle, queued, served };

    struct Connection {
        unsigned long serial = 0;  // 0 when the descriptor is free
        std::string in;
        Response out;
        size_t sent = 0;
        State state = State::idle;
        int samples = 0;
        bool keep_alive = true;
        bool watches_writing = false;
    };

    struct Ticket {  // a request on a connection, void once the connection has gone
        int fd;
        unsigned long serial;
    };

    struct Due {
        double at;
        Ticket ticket;
        bool operator<(const Due& other) const { return at > other.at; }
    };

    static Response json(std::string_view status, std::string_view body, std::string_view more = "") {
        return shared(response(status, "application/json", body, more));
    }

    void listen() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        const int one = 1;
        setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<uint16_t>(options_.port));
        socklen_t length = sizeof address;
        if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(listener_, 16384) != 0)
            throw std::runtime_error("cannot listen on port " + std::to_string(options_.port));
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
        port_ = ntohs(address.sin_port);
        epoll_ = epoll_create1(0);
        watch(listener_, EPOLLIN, EPOLL_CTL_ADD);
    }

    void watch(int fd, unsigned events, int operation) {
        epoll_event event{};
        event.events = events;
        event.data.fd = fd;
        epoll_ctl(epoll_, operation, fd, &event);
    }

    int wait_ms() const {
        double until = due_.empty() ? INFINITY : due_.top().at;
        if (!waiting_.empty() && !options_.queue_beyond.unlimited()) {
            const double since = figures_.since_first(now_);
            until = std::min(until, now_ + options_.queue_beyond.next_change(since) - since);
        }
        if (std::isinf(until)) return -1;
        return std::max(0, static_cast<int>(std::ceil(1000 * (until - clock_s(CLOCK_MONOTONIC)))));
    }

    void accept_all() {
        for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
            const int one = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (connections_.size() <= static_cast<size_t>(fd)) connections_.resize(static_cast<size_t>(fd) + 1);
            connections_[fd] = Connection{};
            connections_[fd].serial = ++serial_;
            watch(fd, EPOLLIN, EPOLL_CTL_ADD);
        }
    }

    void happened(int fd, unsigned events) {
        const unsigned long serial = connections_[fd].serial;
        if (serial == 0) return;
        if (events & EPOLLOUT) send_rest(fd);
        if (connections_[fd].serial == serial && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read(fd);
    }

    void read(int fd) {
        const ssize_t count = recv(fd, buffer_, sizeof buffer_, 0);
        if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return drop(fd);
        if (count < 0) return;
        Connection& connection = connections_[fd];
        const std::string_view got(buffer_, static_cast<size_t>(count));
        if (!connection.in.empty()) {
            connection.in.append(got);
            return take_requests(fd, connection.in);
        }
        take_requests(fd, got);
    }

    // Take requests from the start of `in` until one has to wait; keep the rest. `in` may be the connection's own buffer.
    void take_requests(int fd, std::string_view in) {
        Connection& connection = connections_[fd];
        const unsigned long serial = connection.serial;
        size_t used = 0;
        while (connection.state == State::idle && !connection.out && used < in.size()) {
            Request request;
            const Parsed parsed = parse(in.substr(used), request);
            if (parsed == Parsed::incomplete) break;
            if (parsed == Parsed::refused) return drop(fd);
            used += request.size;
            connection.keep_alive = request.keep_alive;
            take(fd, request);
            if (connection.serial != serial) return;
        }
        connection.in = std::string(in.substr(used));
    }

    void take(int fd, const Request& request) {
        // Without /v1: where a client sends that takes the server's root for its base URL.
        if (request.path == "/v1/chat/completions" || request.path == "/chat/completions")
            return take_chat(fd, samples_asked(request.body));
        if (request.path == "/stats") return send(fd, json("200 OK", figures_.json(now_)));
        if (request.path == "/metrics") return send(fd, shared(response("200 OK", "text/plain; version=0.0.4", metrics())));
        if (request.path == "/health") return send(fd, json("200 OK", "{}"));
        if (request.path == "/v1/models") {
            const std::string model = R"({"id":")" + options_.model + R"(","object":"model"})";
            return send(fd, json("200 OK", R"({"object":"list","data":[)" + model + "]}"));
        }
        if (request.path == "/reset" && request.method == "POST") {
            figures_.reset(now_);
            return send(fd, json("200 OK", "{}"));
        }
        send(fd, json("404 Not Found", R"({"error":{"message":"no such path","code":404}})"));
    }

    void take_chat(int fd, int samples) {
        figures_.requested(now_);
        const double since = figures_.since_first(now_);
        const Schedule& refuse = options_.refuse_beyond;
        if (!refuse.unlimited() && figures_.in_flight() + samples > refuse.at(since)) {
            figures_.refused(now_);
            return send(fd, refusal_);
        }
        Connection& connection = connections_[fd];
        connection.samples = samples;
        figures_.taken(now_, samples);
        const Schedule& queue = options_.queue_beyond;
        if (!queue.unlimited() && (!waiting_.empty() || served_ + samples > queue.at(since))) {
            connection.state = State::queued;
            waiting_.push_back({fd, connection.serial});
            return;
        }
        serve(fd);
    }

    void serve(int fd) {
        Connection& connection = connections_[fd];
        connection.state = State::served;
        served_ += connection.samples;
        const double latency = options_.latency.draw();
        if (latency <= 0) return answer(fd);
        due_.push({now_ + latency, {fd, connection.serial}});
    }

    void answer(int fd) {
        Connection& connection = connections_[fd];
        served_ -= connection.samples;
        connection.state = State::idle;
        figures_.answered(now_, connection.samples);
        send(fd, options_.answers.take(connection.samples));
    }

    void answer_due() {
        while (!due_.empty() && due_.top().at <= now_) {
            const Ticket ticket = due_.top().ticket;
            due_.pop();
            if (connections_[ticket.fd].serial != ticket.serial) continue;
            answer(ticket.fd);
            go_on(ticket.fd, ticket.serial);
        }
    }

    void serve_waiting() {
        while (!waiting_.empty()) {
            const Ticket ticket = waiting_.front();
            const Connection& connection = connections_[ticket.fd];
            const bool gone = connection.serial != ticket.serial;
            if (!gone && served_ + connection.samples > options_.queue_beyond.at(figures_.since_first(now_))) return;
            waiting_.pop_front();
            if (gone) continue;
            serve(ticket.fd);
            go_on(ticket.fd, ticket.serial);
        }
    }

    // Take what was pipelined behind a request that has been answered.
    void go_on(int fd, unsigned long serial) {
        if (connections_[fd].serial != serial || connections_[fd].in.empty()) return;
        const std::string in = std::move(connections_[fd].in);
        connections_[fd].in.clear();
        take_requests(fd, in);
    }

    void send(int fd, const Response& response) {
        connections_[fd].out = response;
        connections_[fd].sent = 0;
        push(fd);
    }

    // Send what the socket takes. Ends the connection when that fails, or when the client asked for it.
    void push(int fd) {
        Connection& connection = connections_[fd];
        while (connection.sent < connection.out->size()) {
            const char* from = connection.out->data() + connection.sent;
            const ssize_t count = ::send(fd, from, connection.out->size() - connection.sent, MSG_NOSIGNAL);
            if (count < 0 && errno == EINTR) continue;
            if (count < 0 && errno == EAGAIN) return want_writing(fd, true);
            if (count < 0) return drop(fd);
            connection.sent += static_cast<size_t>(count);
        }
        connection.out.reset();
        want_writing(fd, false);
        if (!connection.keep_alive) drop(fd);
    }

    void want_writing(int fd, bool wanted) {
        Connection& connection = connections_[fd];
        if (connection.watches_writing == wanted) return;
        connection.watches_writing = wanted;
        watch(fd, wanted ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    }

    void send_rest(int fd) {
        const unsigned long serial = connections_[fd].serial;
        if (connections_[fd].out) push(fd);
        if (connections_[fd].serial == serial && !connections_[fd].out) go_on(fd, serial);
    }

    void drop(int fd) {
        Connection& connection = connections_[fd];
        if (connection.state == State::served) served_ -= connection.samples;
        if (connection.state != State::idle) figures_.abandoned(now_, connection.samples);
        connection = Connection{};
        close(fd);
    }

    std::string metrics() const {
        const Schedule& queue = options_.queue_beyond;
        const int room = queue.unlimited() ? 0 : queue.at(figures_.since_first(now_));
        const double full = room > 0 ? std::min(1.0, static_cast<double>(served_) / room) : 0.0;
        const int waiting = figures_.in_flight() - served_;
        return gauge("num_requests_running", served_) + gauge("num_requests_waiting", waiting) +
               gauge("kv_cache_usage_perc", full);
    }

    std::string gauge(const std::string& name, double value) const {
        const std::string full = "vllm:" + name;
        return "# TYPE " + full + " gauge\n" + full + "{engine=\"0\",model_name=\"" + options_.model + "\"} " +
               std::to_string(value) + "\n";
    }

    Options options_;
    Figures figures_;
    Response refusal_;
    int listener_ = -1, epoll_ = -1, port_ = 0;
    unsigned long serial_ = 0;
    int served_ = 0;  // samples whose latency runs
    double now_ = clock_s(CLOCK_MONOTONIC);
    std::vector<Connection> connections_;
    std::deque<Ticket> waiting_;
    std::priority_queue<Due> due_;
    char buffer_[64 << 10];
};

}  // namespace stub
