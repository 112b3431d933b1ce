/* libshrinkd: memory in a pool of shrinkd, whose pages go out while nobody uses them and come back when somebody does.
 *
 * Caveats first:
 * - Use an object's bytes only between shrinkd_pin and shrinkd_unpin. Outside, its pages may be gone, and what is written there may be lost.
 * - Pins belong to the client's connection. When it ends, for whatever reason, they end with it.
 * - A child process that fork(2) makes has the mapping but no pins: it must not touch the memory, nor call anything here; a pin or unpin there
 *   ends it with SIGSEGV.
 * - Two clients of one object see the same bytes. A pin keeps pages in place; it is no lock.
 * - With SHRINKD_DEBUG_PINS=1 in the environment, an object's bytes can't be touched at all while it is not pinned: a use without a pin is SIGSEGV
 *   every time, not zeros now and then. Pins cost system calls then.
 *
 * Every function may be called from any thread; those that end a handle must be its last use. Functions that return int return 0 or more if
 * they did their work, and a negative SHRINKD_ERROR_ otherwise; shrinkd_error_message then has a sentence with cause and way out. Sizes are bytes.
 *
 * cc program.c $(pkg-config --cflags --libs shrinkd)
 */
#ifndef SHRINKD_H
#define SHRINKD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct shrinkd_client shrinkd_client;
typedef struct shrinkd_pool shrinkd_pool;
typedef struct shrinkd_object shrinkd_object;

enum {
    SHRINKD_ERROR_NOT_RUNNING = -1,      /* nobody listens at the socket */
    SHRINKD_ERROR_NOT_ALLOWED = -2,
    SHRINKD_ERROR_DISCONNECTED = -3,     /* the connection ended, and with it all pins */
    SHRINKD_ERROR_NOT_FOUND = -4,        /* no such pool or object */
    SHRINKD_ERROR_INVALID = -5,          /* an argument that cannot be: a size, a name, a null pointer */
    SHRINKD_ERROR_NO_SPACE = -6,         /* the pool, or the backup, is full */
    SHRINKD_ERROR_NO_MEMORY = -7,        /* no room to bring pages back; nothing changed */
    SHRINKD_ERROR_BUSY = -8,             /* pinned by somebody else */
    SHRINKD_ERROR_NOT_PINNED = -9,       /* unpin without a pin */
    SHRINKD_ERROR_DAMAGED = -10,         /* the backup lost a page; it is never replaced by zeros */
    SHRINKD_ERROR_LIMIT = -11,           /* a limit of the daemon; the message says which */
    SHRINKD_ERROR_OTHER = -12,
    SHRINKD_ERROR_STOPPED = -13          /* the daemon was stopped, and with it this client's pools, objects and pins ended */
};

/* What the last function that failed in this thread met with: cause and way out, one line. Valid until the next one fails; never null. */
const char *shrinkd_error_message(void);

/* Connects. socket_path: null for $SHRINKD_SOCKET, the user's daemon, or the system's. */
int shrinkd_connect(const char *socket_path, shrinkd_client **client);

/* Ends the connection and all pins. Pools and objects of it must be closed; none of their memory may be used any more. */
void shrinkd_disconnect(shrinkd_client *client);

/* Opens this user's pool of that name, or makes it; and maps it. size_bytes: a multiple of 4096, which a pool that is there must have at least. */
int shrinkd_pool_open(shrinkd_client *client, const char *name, uint64_t size_bytes, shrinkd_pool **pool);

/* The same of huge pages of 2 MiB, of which the machine has some set aside (vm.nr_hugepages): size_bytes is a multiple of 2 MiB, objects take whole
 * huge pages, and these go out and come back whole. SHRINKD_ERROR_NO_MEMORY: none are set aside, or none is free for an object or a pin. */
int shrinkd_pool_open_huge(shrinkd_client *client, const char *name, uint64_t size_bytes, shrinkd_pool **pool);

/* Bytes of one page of the pool: 4096, or 2 MiB. */
uint64_t shrinkd_pool_page_size(const shrinkd_pool *pool);

/* The mapping stays until the pool's objects are closed, too. */
void shrinkd_pool_close(shrinkd_pool *pool);

enum {
    SHRINKD_PURGEABLE = 1, /* its content may be given up when memory is short; the next pin then returns 0 */
    SHRINKD_LEASED = 2     /* a device uses its memory while it is pinned; see shrinkd_on_revoke */
};

/* Makes an object of zeros, pinned once: fill it, then unpin it. flags: SHRINKD_PURGEABLE and so on, or 0. */
int shrinkd_object_create(shrinkd_pool *pool, const char *name, uint64_t size_bytes, unsigned flags, shrinkd_object **object);

/* An object of the pool that is there, made by this program or another. Not pinned. */
int shrinkd_object_open(shrinkd_pool *pool, uint64_t object_id, shrinkd_object **object);

/* Lets go of the handle. The object stays; its pins of this client end when its last handle here is closed. */
void shrinkd_object_close(shrinkd_object *object);

/* Destroys the object and its content, this client's pins included. SHRINKD_ERROR_BUSY while another client has it pinned. Close the handle too. */
int shrinkd_object_destroy(shrinkd_object *object);

uint64_t shrinkd_object_id(const shrinkd_object *object);
uint64_t shrinkd_object_size(const shrinkd_object *object);

/* Where the object's bytes are, for as long as a handle is open. To be used while it is pinned only. */
void *shrinkd_object_bytes(const shrinkd_object *object);

/* Keeps the object's pages in memory until shrinkd_unpin, bringing them back first if need be. Pins count. Two atomic operations and no system call
 * for pin and unpin together while all of the object is in memory.
 * Returns 1 if the content is still there, 0 if it was given up since this client last pinned it and all bytes are zero now. */
int shrinkd_pin(shrinkd_object *object);

/* Undoes one shrinkd_pin. */
int shrinkd_unpin(shrinkd_object *object);

/* Returns 1 if the content is still there, 0 if it was given up already. */
int shrinkd_set_purgeable(shrinkd_object *object, int purgeable);

int shrinkd_set_leased(shrinkd_object *object, int leased);

/* Has callback called whenever the daemon wants a leased object's memory back: make the device let go of it, unpin it, return. Returning is the
 * answer. Who takes longer than deadline_ms keeps its memory, and the daemon says so. Called on a thread of the library's own, one call at a time;
 * the last call ends before shrinkd_disconnect returns or soon after. Once a client. */
typedef void (*shrinkd_revoke_callback)(void *context, uint64_t object_id, uint64_t deadline_ms);
int shrinkd_on_revoke(shrinkd_client *client, shrinkd_revoke_callback callback, void *context);

/* Memory that is used without pins: a page that is out comes back when it is touched. Never zeros in its place: a page that can't be had is SIGBUS. */
typedef struct shrinkd_mapping shrinkd_mapping;

/* Maps the pool once more and registers that mapping with the daemon (userfaultfd). If the daemon dies or is restarted, threads that touch a page
 * that is out wait for the next one and go on. After a stop, what could not be brought back is SIGBUS, and the rest stays as it is.
 * Linux 6.6 or later. */
int shrinkd_mapping_register(shrinkd_pool *pool, shrinkd_mapping **mapping);

/* 1 if system calls may be given this memory (read(2) into it, for example); 0 if they fail with EFAULT where a page is out: touch it first, or pin. */
int shrinkd_mapping_serves_system_calls(const shrinkd_mapping *mapping);

/* Where the object's bytes are in this mapping; null if the object is of another pool. */
void *shrinkd_mapping_bytes(const shrinkd_mapping *mapping, const shrinkd_object *object);

/* Ends the registration and unmaps the memory: nobody may use it any more, nor the handle. */
int shrinkd_mapping_unregister(shrinkd_mapping *mapping);

#ifdef __cplusplus
}
#endif

#endif
