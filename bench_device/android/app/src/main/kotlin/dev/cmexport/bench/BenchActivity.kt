package dev.cmexport.bench

import android.app.Activity
import android.os.Bundle
import android.view.Gravity
import android.view.WindowManager
import android.widget.TextView

/** Something to look at while the runner works: Android schedules what is in front differently from a shell's program. */
class BenchActivity : Activity() {
    private lateinit var text: TextView

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        text = TextView(this).apply {
            gravity = Gravity.CENTER
            textSize = 24f
        }
        setContentView(text)
        show("cmexport bench")
    }

    /** Show a line; from any thread. */
    fun show(line: String) = runOnUiThread { text.text = line }
}
