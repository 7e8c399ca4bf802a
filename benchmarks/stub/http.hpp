// Where pipelined HTTP/1.1 requests begin and end in a buffer. Nothing is copied; views point into the buffer.
#pragma once

#include <strings.h>

#include <charconv>
#include <memory>
#include <string>
#include <string_view>

namespace stub {

struct Request {
    std::string_view method;
    std::string_view path;
    std::string_view body;
    bool keep_alive = true;
    size_t size = 0;  // bytes from the request line to the end of the body
};

enum class Parsed { complete, incomplete, refused };

using Response = std::shared_ptr<const std::string>;

inline bool is_header(std::string_view line, std::string_view name) {
    return line.size() > name.size() && line[name.size()] == ':' &&
           strncasecmp(line.data(), name.data(), name.size()) == 0;
}

inline std::string_view header_value(std::string_view line, std::string_view name) {
    line.remove_prefix(name.size() + 1);
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    return line;
}

// Read one request from the start of `in`. Bodies need a Content-Length: the clients measured here all send one.
inline Parsed parse(std::string_view in, Request& request) {
    const size_t head = in.find("\r\n\r\n");
    if (head == std::string_view::npos) return in.size() > (64u << 10) ? Parsed::refused : Parsed::incomplete;
    const size_t first_end = in.find("\r\n");
    const std::string_view first = in.substr(0, first_end);
    const size_t space = first.find(' ');
    const size_t second = space == std::string_view::npos ? space : first.find(' ', space + 1);
    if (second == std::string_view::npos) return Parsed::refused;
    request.method = first.substr(0, space);
    request.path = first.substr(space + 1, second - space - 1);
    request.keep_alive = first.substr(second + 1) != "HTTP/1.0";
    size_t length = 0;
    for (size_t at = first_end + 2; at < head + 2;) {
        const size_t end = in.find("\r\n", at);
        const std::string_view line = in.substr(at, end - at);
        at = end + 2;
        if (is_header(line, "content-length")) {
            const std::string_view value = header_value(line, "content-length");
            if (std::from_chars(value.data(), value.data() + value.size(), length).ec != std::errc()) return Parsed::refused;
        } else if (is_header(line, "transfer-encoding")) {
            return Parsed::refused;
        } else if (is_header(line, "connection")) {
            const std::string_view value = header_value(line, "connection");
            if (value.size() == 5 && strncasecmp(value.data(), "close", 5) == 0) request.keep_alive = false;
        }
    }
    if (length > (64u << 20)) return Parsed::refused;
    request.size = head + 4 + length;
    if (in.size() < request.size) return Parsed::incomplete;
    request.body = in.substr(head + 4, length);
    return Parsed::complete;
}

inline std::string response(std::string_view status, std::string_view type, std::string_view body, std::string_view more = "") {
    std::string text = "HTTP/1.1 ";
    text.append(status).append("\r\nContent-Type: ").append(type).append("\r\nContent-Length: ");
    text.append(std::to_string(body.size())).append("\r\n").append(more).append("\r\n").append(body);
    return text;
}

inline Response shared(std::string text) { return std::make_shared<const std::string>(std::move(text)); }

// How many samples a chat request asks for: its top-level "n", 1 without one.
inline int samples_asked(std::string_view body) {
    for (size_t at = body.find("\"n\":"); at != std::string_view::npos; at = body.find("\"n\":", at + 1)) {
        if (at == 0 || (body[at - 1] != '{' && body[at - 1] != ',')) continue;
        size_t digits = at + 4;
        while (digits < body.size() && body[digits] == ' ') ++digits;
        int count = 1;
        std::from_chars(body.data() + digits, body.data() + body.size(), count);
        return count < 1 ? 1 : count > 128 ? 128 : count;
    }
    return 1;
}

}  // namespace stub
