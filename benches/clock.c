/* Appends the monotonic time, in nanoseconds, to the file that is its first argument. Ends, or becomes the command that
   the other arguments are. It is both ends of the start-up measurement: the last thing before, and the app. */

#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	char line[32];
	int fd, n;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (argc < 2 || (fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) < 0)
		return 2;
	n = snprintf(line, sizeof line, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	if (write(fd, line, n) != n)
		return 2;
	if (argc > 2) {
		execv(argv[2], argv + 2);
		return 127;
	}
	return 0;
}
