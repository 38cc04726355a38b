"""A mail server on this machine, with TLS from the start or by STARTTLS, that can be told to refuse."""

import socketserver
import ssl
import subprocess
import threading
import time
from email import message_from_bytes
from email.message import Message
from pathlib import Path


def certificate(folder: Path) -> Path:
    """Make a certificate of 127.0.0.1 that signs itself; return the file, which also holds the key."""
    file, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    with file.open("a") as both:
        both.write(key.read_text())
    return file


class MailServer:
    """Takes mail of one user; `replies` are given to RCPT before it is taken, "never" stands for none."""

    def __init__(self, certificate: Path, from_the_start: bool, offers_tls: bool = True) -> None:
        self.messages: list[Message] = []
        self.log_ins: list[str] = []
        self.before_tls: list[str] = []
        self.replies: list[str] = []
        self.attempts = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self) -> None:
                secure = from_the_start
                if secure:
                    self.encrypt()
                self.say("220 here")
                while line := self.rfile.readline().decode().strip():
                    word = line.split()[0].upper()
                    if not secure:
                        server.before_tls.append(word)
                    if word == "EHLO":
                        more = "AUTH PLAIN" if secure else "STARTTLS" if offers_tls else "HELP"
                        self.say(f"250-here\r\n250 {more}")
                    elif word == "STARTTLS":
                        self.say("220 go on")
                        self.encrypt()
                        secure = True
                    elif word == "AUTH":
                        server.log_ins.append(line.split()[-1])
                        self.say("235 welcome")
                    elif word == "RCPT" and server.replies:
                        server.attempts += 1
                        reply = server.replies.pop(0)
                        if reply == "never":
                            time.sleep(1.5)
                            return
                        self.say(reply)
                    elif word == "DATA":
                        self.say("354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        server.messages.append(message_from_bytes(b"".join(lines)))
                        self.say("250 taken")
                    elif word == "QUIT":
                        self.say("221 bye")
                        return
                    else:
                        self.say("250 fine")

            def finish(self) -> None:
                super().finish()
                self.connection.close()

            def encrypt(self) -> None:
                self.connection = context.wrap_socket(self.connection, server_side=True)
                self.setup_files()

            def setup_files(self) -> None:
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that breaks the handshake off is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        scheme = "smtps" if from_the_start else "smtp"
        self.address = f"{scheme}://user:pass%40word@127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
