"""What every test may count on, however the tests were started."""

import signal

# A shell gives a command in the background SIGINT and SIGQUIT ignored, and every child would inherit that:
# the tests that press Ctrl-C would wait for ever.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
