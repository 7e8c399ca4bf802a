// A chat-completions server that is never the bottleneck. Prints its port and serves until it is killed.
//
//   stub --body FILE [--body FILE ...] [--port 0] [--model stub]
//        [--latency none | fixed:SECONDS | log-normal:MEDIAN,P99] [--seed 0]
//        [--serve-at-once N | N@0,M@20,...] [--retry-after SECONDS]   429 to what exceeds it
//        [--queue N | N@0,M@20,...]                                   the rest waits; /metrics tells
//        [--window SECONDS]                                           counts the most requests in any such window
//
// GET /v1/models /health /stats /metrics, POST /v1/chat/completions /reset.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <string>

#include "server.hpp"

namespace {

stub::Options read_options(int count, char** words) {
    stub::Options options;
    std::string latency = "none";
    unsigned long seed = 0;
    for (int i = 1; i + 1 < count; i += 2) {
        const std::string name = words[i];
        const std::string value = words[i + 1];
        if (name == "--body") options.answers.add(value);
        else if (name == "--port") options.port = std::stoi(value);
        else if (name == "--model") options.model = value;
        else if (name == "--latency") latency = value;
        else if (name == "--seed") seed = std::stoul(value);
        else if (name == "--serve-at-once") options.refuse_beyond = stub::Schedule::parse(value);
        else if (name == "--retry-after") options.retry_after = value;
        else if (name == "--queue") options.queue_beyond = stub::Schedule::parse(value);
        else if (name == "--window") options.window_s = std::stod(value);
        else throw std::invalid_argument("unknown option " + name);
    }
    options.latency = stub::Latency::parse(latency, seed);
    if (count % 2 == 0 || options.answers.empty()) throw std::invalid_argument("options are pairs, and --body is needed");
    return options;
}

}  // namespace

int main(int count, char** words) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // whoever started it may be killed without a word
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    try {
        const auto server = std::make_unique<stub::Server>(read_options(count, words));
        std::printf("%d\n", server->port());
        std::fflush(stdout);
        server->run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "stub: %s\n", error.what());
        return 2;
    }
}
