"""Tests of mirror.bzl."""

load("@bazel_skylib//lib:unittest.bzl", "asserts", "unittest")
load(":mirror.bzl", "parse_deb822", "parse_one_line")

_ONE_LINE = """\
# deb http://comment.example/debian trixie main
deb http://a.example/debian trixie main contrib # the mirror
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] mirror+file:/etc/apt/mirrors trixie-updates main
deb\thttp://b.example/debian/\tstable\tmain
deb-src http://source.example/debian trixie main
deb http://security.example/debian-security trixie-security main
deb http://vendor.example/apt cloud-sdk-bookworm main
deb http://vendor.example/apt stable nonmain
deb http://ubuntu.example/ubuntu noble main
deb
"""

_DEB822 = """\
Types: deb
URIs: http://a.example/debian
# a comment within
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg

Types: deb deb-src
URIs: http://b.example/debian
  http://c.example/debian
suites: trixie
Components:
 main contrib

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main"""

def _one_line_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(
        env,
        ["http://a.example/debian", "mirror+file:/etc/apt/mirrors", "http://b.example/debian/"],
        parse_one_line(_ONE_LINE),
    )
    asserts.equals(env, [], parse_one_line(""))
    return unittest.end(env)

_one_line_test = unittest.make(_one_line_impl)

def _deb822_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(
        env,
        ["http://a.example/debian", "http://b.example/debian", "http://c.example/debian"],
        parse_deb822(_DEB822),
    )
    asserts.equals(env, [], parse_deb822(""))
    return unittest.end(env)

_deb822_test = unittest.make(_deb822_impl)

def mirror_test(name):
    """The tests of mirror.bzl.

    Args:
      name: name of the test suite
    """
    unittest.suite(name, _one_line_test, _deb822_test)
