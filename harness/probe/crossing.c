/* How long a line of the cache takes from one processor to another one and back. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define LINE 128 /* bytes, with the neighbour that is fetched along */
#define REPEATS 5
#define PATIENCE 0.02 /* seconds, after which the other processor is given up */

struct game {
    _Alignas(LINE) _Atomic long ball;
    int processor;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int go_to(int processor) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(processor, &only);
    return pthread_setaffinity_np(pthread_self(), sizeof only, &only);
}

static void *other_player(void *argument) {
    struct game *game = argument;
    go_to(game->processor);
    for (;;) {
        long seen = atomic_load(&game->ball);
        if (seen < 0)
            return 0;
        if (seen & 1)
            atomic_store(&game->ball, seen + 1);
    }
}

/* Seconds of a round trip, the least of REPEATS means of `trips`; negative where it cannot be played. The caller's affinity is put back. */
double plumbline_round_trip(int first, int second, int trips) {
    cpu_set_t before;
    struct game game = {0, second};
    pthread_t player;
    double best = -1.0;
    if (pthread_getaffinity_np(pthread_self(), sizeof before, &before) || go_to(first))
        return -1.0;
    if (!pthread_create(&player, 0, other_player, &game)) {
        double begun = now();
        long ball = 0;
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            double start = now();
            for (int trip = 0; trip < trips; trip++) {
                atomic_store(&game.ball, ball + 1);
                while (atomic_load(&game.ball) != ball + 2)
                    if (now() - begun > PATIENCE)
                        goto end;
                ball += 2;
            }
            double took = (now() - start) / trips;
            if (best < 0 || took < best)
                best = took;
        }
    end:
        atomic_store(&game.ball, -1);
        pthread_join(player, 0);
    }
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    return best;
}
