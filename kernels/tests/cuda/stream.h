// A stream of the stand-in driver: operations are done when somebody waits, so a buffer that is reused too early shows.
#pragma once
#include <stddef.h>

struct operation {
    void (*run)(const void *);
    char args[192];
};

struct stream {
    // Appends to the stream, or to the graph that it is captured into.
    void (*push)(struct stream *, void (*run)(const void *), const void *args, size_t bytes);
    struct operation *operations;
    size_t count, done;
    struct graph *captured;
    int invalid;
};
