"""Runs a command to which the kernel denies system calls: deny.py NAME=ERRNO[,NAME=ERRNO…] COMMAND…

`unix` is socket(2) for AF_UNIX alone. A seccomp filter (seccomp(2)), as container engines and sandboxes have them.
"""
import ctypes, os, platform, struct, sys

NUMBERS = {
    'x86_64': dict(arch=0xC000003E, socket=41, bind=49, flock=73, prctl=157, fchmod=91, setpgid=109, setsid=112, getsid=124, signalfd4=289),
    'aarch64': dict(arch=0xC00000B7, socket=198, bind=200, flock=32, prctl=167, fchmod=52, setpgid=154, setsid=157, getsid=156, signalfd4=74),
}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

def rules(denied):
    yield LOAD, 0, 0, 4
    yield EQUAL, 1, 0, NUMBERS['arch']
    yield RETURN, 0, 0, ALLOW
    for name, errno in denied:
        yield LOAD, 0, 0, 0
        if name == 'unix':
            yield EQUAL, 0, 3, NUMBERS['socket']
            yield LOAD, 0, 0, 16
            yield EQUAL, 0, 1, 1
        else:
            yield EQUAL, 0, 1, NUMBERS[name]
        yield RETURN, 0, 0, ERRNO | errno
    yield RETURN, 0, 0, ALLOW

denied = [(name, int(errno)) for name, errno in (pair.split('=') for pair in sys.argv[1].split(','))]
code = b''.join(struct.pack('HBBI', *rule) for rule in rules(denied))
text = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code) // 8, ctypes.addressof(text)))
libc = ctypes.CDLL(None, use_errno=True)
for words in ((38, 1, 0, 0, 0), (22, 2, ctypes.addressof(program), 0, 0)):
    if libc.prctl(words[0], *(ctypes.c_ulong(word) for word in words[1:])) != 0:
        sys.exit('deny.py: ' + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
