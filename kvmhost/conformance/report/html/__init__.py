"""The run as one HTML page that needs nothing else: no network, no library, no server.

The whole content stands in the page itself and reads without JavaScript; the script only filters, searches
and opens what a link leads to.  Style and script are the only ones the page lets the browser use: the policy
in its head names them by their hashes, so that nothing a machine, a file or a row says can become code.
"""

from kvmhost.conformance.report.html.page import render

__all__ = ["render"]
