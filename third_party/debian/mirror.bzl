"""Which Debian mirrors to download from: the ones apt on this host already uses, unless the user names another."""

# Suites of Debian itself. Anything else in the apt sources (a vendor's own repository, Ubuntu) has no Debian pool.
_SUITES = ["oldoldstable", "oldstable", "stable", "testing", "unstable", "sid", "bullseye", "bookworm", "trixie", "forky", "duke"]

def _is_debian(suites, components):
    return "main" in components and any([s.split("-")[0].split("/")[0] in _SUITES and "-security" not in s and "/updates" not in s for s in suites])

def parse_one_line(text):
    """URIs of the Debian archives in a `sources.list`, in order.

    Args:
      text: lines of the form `deb [options] URI SUITE COMPONENT...`
    Returns:
      list of URIs as written
    """
    uris = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if "[" in line:  # the options may hold spaces
            head, _, rest = line.partition("[")
            line = head + rest.partition("]")[2]
        words = [w for w in line.replace("\t", " ").split(" ") if w]
        if len(words) >= 4 and words[0] == "deb" and _is_debian([words[2]], words[3:]):
            uris.append(words[1])
    return uris

def parse_deb822(text):
    """URIs of the Debian archives in a `*.sources` file, in order.

    Args:
      text: stanzas of `Field: value` lines, with continuation lines, separated by blank lines
    Returns:
      list of URIs as written
    """
    uris = []
    stanza = {}
    field = ""
    for line in text.splitlines() + [""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            enabled = stanza.get("enabled", ["yes"])[0].lower() not in ["no", "false", "0", "without", "off", "disable"]
            if enabled and "deb" in stanza.get("types", []) and _is_debian(stanza.get("suites", []), stanza.get("components", [])):
                uris += stanza.get("uris", [])
            stanza = {}
        elif line[0] in " \t":
            stanza[field] = stanza.get(field, []) + _words(line)
        else:
            name, _, value = line.partition(":")
            field = name.strip().lower()
            stanza[field] = _words(value)
    return uris

def _words(text):
    return [w for w in text.replace("\t", " ").split(" ") if w]

def _expand(rctx, uri):
    """apt's spellings of a URI, as URLs that Bazel can download from."""
    if uri.startswith("mirror+file:"):
        lines = rctx.read("/" + uri[len("mirror+file:"):].lstrip("/"), watch = "no").splitlines()
        return [_words(line)[0] for line in lines if _words(line) and not line.startswith("#")]
    if uri.startswith("file:/"):
        return ["file:///" + uri[len("file:"):].lstrip("/")]
    return [uri] if uri.startswith("http://") or uri.startswith("https://") else []

def debian_mirrors(rctx):
    """Mirrors to try, in order: `ZML_DEBIAN_MIRROR`, else those of this host's apt sources.

    Args:
      rctx: repository_ctx
    Returns:
      list of URLs without a final slash, never empty
    """
    named = rctx.getenv("ZML_DEBIAN_MIRROR", "")
    if named:
        return [uri.rstrip("/") for uri in named.split(" ") if uri]
    uris = []
    sources = rctx.path("/etc/apt/sources.list")
    if sources.exists:
        uris += parse_one_line(rctx.read(sources, watch = "no"))
    folder = rctx.path("/etc/apt/sources.list.d")
    for path in folder.readdir(watch = "no") if folder.exists else []:
        if path.basename.endswith(".list"):
            uris += parse_one_line(rctx.read(path, watch = "no"))
        elif path.basename.endswith(".sources"):
            uris += parse_deb822(rctx.read(path, watch = "no"))
    mirrors = {url.rstrip("/"): None for uri in uris for url in _expand(rctx, uri)}
    if not mirrors:
        fail("no Debian mirror: expected one for Debian's main component in /etc/apt/sources.list or /etc/apt/sources.list.d, " +
             "found none. Set ZML_DEBIAN_MIRROR to the URL of a Debian mirror, the folder that holds dists/ and pool/.")
    return mirrors.keys()
