"""Serve a built page on this machine only, with the headers that WebAssembly threads need.

python scripts/page/serve.py page
"""

import argparse
import functools
import http.server
import sys

HEADERS = {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-cache',
}


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        '.js': 'text/javascript',
        '.mjs': 'text/javascript',
        '.wasm': 'application/wasm',
    }

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # closing a page while it loads is not an error
            super().handle_error(request, client_address)


def server(folder, port):
    """A server for a folder at a port of this machine; port 0 stands for any free one."""
    return Server(('127.0.0.1', port), functools.partial(Handler, directory=str(folder)))


def main():
    parser = argparse.ArgumentParser(description='Serve a built page on this machine alone.', add_help=False)
    parser.add_argument('-h', '-help', '--help', action='help', help='show this and stop')
    parser.add_argument('folder')
    parser.add_argument(
        '-port', '--port', type=int, default=8000, help='8000 if left out, or the next one that is free'
    )
    args = parser.parse_args()
    for port in range(args.port, args.port + 20):
        try:
            served = server(args.folder, port)
            break
        except OSError:
            continue
    else:
        parser.exit(2, f'error: the ports from {args.port} to {args.port + 19} are taken\n')
    print(f'http://localhost:{served.server_port}/     (Ctrl-C stops it)', flush=True)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == '__main__':
    main()
