"""Result files as one HTML page that needs nothing else: no network, no library, no server.

Everything stands in the page itself and reads without JavaScript; the script searches, opens what a link
leads to, and tells the value under the pointer.  A policy in the page's head names our one style and our one
script by their hashes, so that nothing a result file says can become code.
"""

from kvmhost.bench.report.html.page import render

__all__ = ["render"]
