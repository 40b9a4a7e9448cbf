/* Maps a SocketCAN socket onto a Unix socket: preloaded into one process, it lets software made for a CAN adapter run
 * on a machine without one. CANBUS_FOLDER holds one Unix SOCK_SEQPACKET socket per interface, named like the interface;
 * packets are struct can_frame. Everything but opening, naming and binding a CAN socket is the C library's own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef AF_CAN
#define AF_CAN 29
#endif
#define FILES 1024

static unsigned char is_can[FILES];

int socket(int domain, int type, int protocol) {
    int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    if (domain != AF_CAN) {
        int other = real(domain, type, protocol);
        if (other >= 0 && other < FILES)
            is_can[other] = 0;
        return other;
    }
    int fd = real(AF_UNIX, SOCK_SEQPACKET | (type & (SOCK_CLOEXEC | SOCK_NONBLOCK)), 0);
    if (fd >= 0 && fd < FILES)
        is_can[fd] = 1;
    return fd;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (fd < 0 || fd >= FILES || !is_can[fd] || request != SIOCGIFINDEX) {
        int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
        return real(fd, request, argument);
    }
    struct ifreq *interface = argument;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *folder = getenv("CANBUS_FOLDER");
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%.*s", folder ? folder : "", IFNAMSIZ,
                          interface->ifr_name);
    if (!folder || length >= (int)sizeof address.sun_path ||
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        errno = ENODEV; /* what a CAN socket says of an interface that is not there */
        return -1;
    }
    interface->ifr_ifindex = 1;
    return 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    if (fd >= 0 && fd < FILES && is_can[fd] && address && address->sa_family == AF_CAN)
        return 0; /* connected since its name was looked up */
    int (*real)(int, const struct sockaddr *, socklen_t) =
        (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
    return real(fd, address, length);
}
