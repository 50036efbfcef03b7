from check_html import check

PAGE = """
<link rel="stylesheet" href="https://example.com/font-awesome.css">
<link rel="canonical" href="https://example.com/page.html">
<script src="//example.com/thebe.js"></script><script src="_static/local.js?digest=1"></script>
<a href="https://example.com">a link is fine</a> <a href="mailto:nobody">so is this</a>
<img src="data:image/png;base64,"><img src="http://example.com/picture.png">
"""
OTHER = """
<h1 id="top"></h1><h2 id="α 1"></h2> <a href="#top"></a><a href="../page.html"></a><a href="#%CE%B1%201"></a>
<a href="#bottom"></a><a href="other.html#top"></a><a href="../page.html#top"></a><a href="gone.html"></a>
<img src="../../outside.png">
"""


def test_what_a_page_loads_from_elsewhere_and_its_dead_links_are_found(tmp_path):
    folder = tmp_path / "html"
    (folder / "_static").mkdir(parents=True)
    (folder / "book").mkdir()
    (tmp_path / "outside.png").touch()
    (folder / "_static" / "local.js").touch()
    (folder / "_static" / "template.html").write_text("<link rel=stylesheet href='{{ pathto(file) }}'>")
    (folder / "page.html").write_text(PAGE)
    (folder / "book" / "other.html").write_text(OTHER, encoding="utf-8")
    (folder / "style.css").write_text('@import "https://example.com/a.css"; b { background: url(local.png) }')
    assert check(folder) == [
        "book/other.html: no such place on the page: #bottom",
        "book/other.html: no such place on the page: ../page.html#top",
        "book/other.html: no such file: gone.html",
        "book/other.html: no such file: ../../outside.png",
        "page.html: leaves the host: <link> https://example.com/font-awesome.css",
        "page.html: leaves the host: <script> //example.com/thebe.js",
        "page.html: leaves the host: <img> http://example.com/picture.png",
        "style.css: leaves the host: https://example.com/a.css",
    ]
